"""The weighted midpoint of points given by their velocities, or by tangents at the origin.

With velocities ω_i, times X_i (`coordinates`) and shares w_i ≥ 0 that sum to one,

    S = Σ w ω,   S₀ = Σ w X,   M = S/√(S₀² − ‖S‖²)

is the velocity of the centre of mass: the gyro-midpoint, which moves with every isometry. S₀² −
‖S‖² is a difference of large squares where all points are far out, so it is written around the
point C with velocity S and time T = √(1 + ‖S‖²): with e = Σ w (T X − ⟨S, ω⟩ − 1) it is 1 + e (2 +
e/T²).

Source: Ungar 2010, "Barycentric calculus in Euclidean and hyperbolic geometry"; Shimizu et al.
2021, arXiv:2006.08210, §3.5.
Differs from them: in velocities, with no conformal factor and no boundary.
"""

# Shape letters: B batch, D width (axis `dim`), ... pixels. A number per point has size 1 on dim.

from typing import Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

from .curvature import BallCurvature, curvature_of
from .maths.ball import Curvature, check_curvature, in_float32, inner, squared_norm
from .maths.coordinates import held_velocity, velocity_to_tangent
from .maths.radial import length, squared_angle
from .maths.shape_checks import check_axis, check_shape

__all__ = [
    "Axes",
    "MidpointPool",
    "MidpointStatistics",
    "NormKind",
    "Spread",
    "Transport",
    "excess_and_delay",
    "midpoint_pool",
    "midpoint_statistics",
    "nearer_excess",
    "number_of_points",
    "velocity_midpoint",
]

Axes = int | tuple[int, ...]
Transport = Literal["geodesic", "origin"]
Spread = Literal["rms", "mean"]


def excess(velocity: Tensor, point: Tensor, dim: int) -> Tensor:
    """Return cosh ρ − 1 ≥ 0 between velocities."""
    return excess_and_delay(velocity, point, dim)[0]


def excess_and_delay(velocity: Tensor, point: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return cosh ρ − 1 ≥ 0 between velocities, and the difference X − M₀ of their times."""
    time = (1 + squared_norm(velocity, dim)).sqrt()
    other = (1 + squared_norm(point, dim)).sqrt()
    apart = velocity - point
    square = squared_norm(apart, dim)
    later = (square + 2 * inner(apart, point, dim)) / (time + other)
    return nearer_excess(square, later, time * other, inner(velocity, point, dim)), later


def nearer_excess(square: Tensor, later: Tensor, times: Tensor, both: Tensor) -> Tensor:
    """Return cosh ρ − 1 ≥ 0 from ‖ω − M‖², X − M₀, X M₀ and ⟨ω, M⟩.

    The difference of velocities keeps more digits near the point, the product far from it.
    """
    near, far = (square - later.square()) / 2, times - both - 1
    return torch.where(square < times, near, far).clamp_min(0.0)


def velocity_midpoint(
    velocity: Tensor, weights: Tensor | None = None, *, over: Axes, dim: int = -1
) -> Tensor:
    """Return the midpoint's velocity, with size 1 on the axes that are averaged.

    Args:
        velocity: ω.
        weights: Non-negative, broadcast over ω with size 1 on `dim`; only their ratios matter and
            they may not all be zero. None are equal weights.
        over: The axis or axes to average.
        dim: The axis of D, not among them.
    """
    if weights is None:

        def mean(x: Tensor) -> Tensor:
            return x.mean(over, keepdim=True)
    else:
        share = weights / weights.sum(over, keepdim=True)

        def mean(x: Tensor) -> Tensor:
            return (share * x).sum(over, keepdim=True)

    centre = mean(velocity)
    spread = mean(excess(velocity, centre, dim))
    return centre / (1 + spread * (2 + spread / (1 + squared_norm(centre, dim)))).sqrt()


class MidpointStatistics(NamedTuple):
    """What a batch is normalised by: the velocity M, with size 1 except on `dim`, and σ²·c."""

    mean: Tensor
    spread: Tensor


class NormKind(NamedTuple):
    """What a midpoint norm does with points (`norm`)."""

    transport: Transport = "geodesic"
    scale: Spread = "rms"
    space: bool = False
    """Whether space parts go in and out; otherwise velocities go in, and tangents out."""


def midpoint_statistics(
    velocity: Tensor, *, dim: int = 1, scale: Spread = "rms", synchronised: bool = False
) -> MidpointStatistics:
    """Return midpoint and mean squared angle ρ² of velocities, over all axes but D.

    Both are 0 where there are no points. With `scale="mean"` the square of the mean ρ is returned
    for the second.

    Args:
        velocity: ω (B, …, D, …).
        dim: The axis of D.
        scale: As above.
        synchronised: Whether the processes of a distributed run share their points.
    """
    axes = tuple(axis for axis in range(velocity.dim()) if axis != dim % velocity.dim())
    count = number_of_points(velocity, dim, synchronised=synchronised).clamp_min(1)

    def mean(x: Tensor) -> Tensor:
        total = x.sum(axes, keepdim=True)
        if synchronised and distributed.is_initialized():
            total = all_reduce(total)
        return total / count

    centre = mean(velocity)
    time = (1 + squared_norm(centre, dim)).sqrt()
    # |ΣX| is a difference of large squares where all points are far out. Around the mean of the
    # velocities it is 1 plus what the distances from there add.
    excess = mean(excess_and_delay(velocity, centre, dim)[0])
    midpoint = centre / (1 + excess * (2 + excess / time.square())).sqrt()
    excess, _ = excess_and_delay(velocity, midpoint, dim)
    angle = squared_angle(excess)
    spread = mean(length(angle)).square() if scale == "mean" else mean(angle)
    return MidpointStatistics(midpoint, spread.squeeze())


def number_of_points(velocity: Tensor, dim: int = 1, *, synchronised: bool = False) -> Tensor:
    """Return how many points there are, on this process or on all of a distributed run."""
    count = velocity.new_full((), velocity.numel() // velocity.shape[dim])
    if synchronised and distributed.is_initialized():
        distributed.all_reduce(count)
    return count


@in_float32
def midpoint_pool(
    t: Tensor,
    curvature: Curvature,
    weights: Tensor | None = None,
    *,
    over: Axes = (2, 3),
    dim: int = 1,
) -> Tensor:
    """Return the tangent of the midpoint of tangents, the averaged axes gone.

    Points further than 30/√c from the origin are taken there, along their radius.

    Args:
        t: Tangents at the origin.
        curvature: c.
        weights: As in `velocity_midpoint`.
        over: The axis or axes to average; all pixels of an image (B, D, H, W) by default.
        dim: The axis of D.

    Raises:
        ValueError: a curvature that is not positive, a dtype other than a float's, no axis `dim` or
            `over`, or nothing to average.
    """
    check_curvature(curvature)
    axes = (over,) if isinstance(over, int) else over
    check_axis("t", t, dim)
    if not all(-t.dim() <= axis < t.dim() and t.shape[axis] for axis in axes):
        raise ValueError(f"t has shape {tuple(t.shape)}, expected something to average over {axes}")
    velocity, _ = held_velocity(t, curvature, dim=dim)
    mean = velocity_midpoint(velocity, weights, over=over, dim=dim)
    return velocity_to_tangent(mean, curvature, dim=dim).squeeze(axes)


class MidpointPool(nn.Module):
    """Global pooling of an image to the midpoint of its pixels, tangents in and out.

    Args:
        curvature: c, or a shared `BallCurvature`.

    Shape:
        (B, D, H, W) -> (B, D).

    Raises:
        ValueError: at the call: another shape, or no pixels.
    """

    def __init__(self, *, curvature: float | BallCurvature = 1.0) -> None:
        """Keep the ball."""
        super().__init__()
        self.curvature = curvature_of(curvature)

    def forward(self, t: Tensor) -> Tensor:
        """Pool the pixels."""
        check_shape("t", t, "B", "D", "H", "W")
        return midpoint_pool(t, self.curvature())
