"""Midpoint batch normalisation: centre at the midpoint, scale distances, move to a learned point.

With ω_i the velocities of all points of a batch and X_i their times (`coordinates`):

    M  = Σω / √((ΣX)² − ‖Σω‖²)                    the batch's midpoint, M₀ its time
    σ² = mean ρ_i²/c,   cosh ρ_i = M₀X_i − ⟨ω_i, M⟩    mean squared distance from it
    out = T(the point at the fraction s = √(γ/(σ² + ε)) of the geodesic from M to the input)

where T is the isometry that carries M to the learned mean β along their geodesic. That is the chain
−M ⊕ x, logarithm, transport, scaling, exponential at β of the reference, and it collapses to

    out = k (ω − M) + q M + p b
    k = sinh(sρ)/sinh(ρ),  δ = cosh ρ − 1,  η = B₀(X − M₀) − ⟨ω − M, b⟩,  g = M₀B₀ − ⟨M, b⟩
    q = −k (η + δ)/(1 + g),  p = cosh(sρ) + k (δ g − η)/(1 + g)

with b, B₀ velocity and time of β: three numbers per point beside one pass over the channels. All
are made of ω − M, so that points close together keep their digits however far out they lie.

Two options are for norms between space parts (`space.lorentz_norm`): T by way of the origin, which
differs by a rotation around β, and scaling by the mean distance:

    q = −k u,  p = cosh(sρ) + k (⟨ω − M, b⟩ − u⟨M, b⟩)/(1 + B₀),  u = (X − M₀ + δ)/(1 + M₀)
    s = γ/(mean distance + ε)

Source: van Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027, §3.3; the midpoint is
Ungar's.
Differs from it: written in velocities, without a map to M and back; running statistics exist and
are used in evaluation (the reference normalises by the batch there too); the scale γ, one number
for all channels as in the reference, is exp of a parameter, so that it stays positive.
"""

# Shape letters: B batch, D channels (axis `dim`), ... pixels. A number per point has size 1 on dim.

from torch import Tensor

from ._fast import fused_norm
from .bases.norm_base import MidpointNorm
from .curvature import BallCurvature
from .maths.ball import (
    Curvature,
    check_curvature,
    in_float32,
    inner,
    moved_axis,
    root,
    squared_norm,
)
from .maths.coordinates import (
    LIMIT,
    Coordinates,
    cap,
    check_coordinates,
    held_velocity,
    tangent_to_velocity,
    velocity_to_tangent,
)
from .maths.radial import cosh_of_square, length, sinhc, squared_angle
from .maths.shape_checks import check_axis, check_one_number, check_shape
from .midpoint import (
    MidpointStatistics,
    NormKind,
    Transport,
    excess_and_delay,
    midpoint_statistics,
)
from .running_midpoint import Following, follow

__all__ = [
    "MidpointBatchNorm",
    "midpoint_batch_norm",
    "midpoint_transform",
    "normalise",
    "normalised",
]

TANGENTS = NormKind()
"""The norm of the ball."""


def midpoint_transform(
    velocity: Tensor,
    mean: Tensor,
    target: Tensor,
    scale: Tensor,
    *,
    dim: int = 1,
    transport: Transport = "geodesic",
) -> Tensor:
    """Scale distances from `mean` by s and carry the result to `target`, all velocities.

    Distances beyond 30/√c end there, along their geodesic.
    """
    apart = velocity - mean
    mean_time = (1 + squared_norm(mean, dim)).sqrt()
    target_time = (1 + squared_norm(target, dim)).sqrt()
    excess, later = excess_and_delay(velocity, mean, dim)
    square = squared_angle(excess)
    scaled, held = cap(scale.square() * square, LIMIT)
    slow = held * scale * sinhc(scaled) / sinhc(square)
    both, across = inner(mean, target, dim), inner(apart, target, dim)
    if transport == "origin":
        back = (later + excess) / (1 + mean_time)
        along_mean = -slow * back
        along_target = cosh_of_square(scaled) + slow * (across - back * both) / (1 + target_time)
    else:
        between = mean_time * target_time - both
        delay = target_time * later - across
        along_mean = -slow * (delay + excess) / (1 + between)
        along_target = cosh_of_square(scaled) + slow * (excess * between - delay) / (1 + between)
    return slow * apart + along_mean * mean + along_target * target


def normalised(
    x: Tensor,
    target: Tensor,
    variance: Tensor,
    curvature: Curvature,
    mean: Tensor | None,
    spread: Tensor | None,
    eps: float,
    kind: NormKind,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normed points, M and σ²c for points (B, D, …); this is the definition.

    Args:
        x: ω, or space parts.
        target: b (D,).
        variance: γ.
        curvature: c.
        mean: M (D,), or None for the batch's.
        spread: σ²c, or None for the batch's.
        eps: Added to σ², or to the mean distance.
        kind: What is done.
    """
    shape = [1, -1, *[1] * (x.dim() - 2)]
    velocity = root(curvature) * x if kind.space else x
    if mean is None or spread is None:
        mean, spread = midpoint_statistics(velocity, scale=kind.scale)
    if kind.scale == "mean":
        scale = variance / (length(spread / curvature) + eps)
    else:
        scale = (variance / (spread / curvature + eps)).sqrt()
    given = velocity, mean.view(shape), target.view(shape), scale
    out = midpoint_transform(*given, transport=kind.transport)
    out = out / root(curvature) if kind.space else velocity_to_tangent(out, curvature, dim=1)
    return out, mean.flatten(), spread


def normalise(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    curvature: Curvature,
    given: MidpointStatistics | None,
    eps: float,
    running: Following | None = None,
    kind: NormKind = TANGENTS,
) -> tuple[Tensor, Tensor, Tensor]:
    """`normalised` with β for b, a tangent or a space part, by the fast path where it runs.

    `running` follows the statistics in place, if there is any.
    """
    by = (None, None) if given is None else (given.mean.flatten(), given.spread)
    found = fused_norm.normalise(normalised, x, mean, variance, curvature, *by, eps, running, kind)
    if found is None:
        target = root(curvature) * mean if kind.space else tangent_to_velocity(mean, curvature)
        found = normalised(x, target, variance, curvature, *by, eps, kind)
        if running is not None:
            follow(running, MidpointStatistics(*found[1:]), curvature)
    return found


@in_float32
def midpoint_batch_norm(
    t: Tensor,
    mean: Tensor,
    variance: Tensor,
    curvature: Curvature,
    *,
    statistics: MidpointStatistics | None = None,
    eps: float = 1e-6,
    dim: int = 1,
    input: Coordinates = "tangent",
) -> Tensor:
    """Normalise tangents (B, …, D, …), or velocities, to the mean β and mean squared distance γ.

    Args:
        t: Tangents at the origin, or velocities; tangents are returned.
        mean: The tangent of β (D,).
        variance: γ, a positive scalar.
        curvature: c.
        statistics: What to normalise by; None is the batch's own.
        eps: Added to σ².
        dim: The axis of D.
        input: What t is: `tangent`, or `velocity`.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's,
            float16 velocities, or another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_one_number("variance", variance)
    check_shape("mean", mean, "D")
    check_axis("t", t, dim, len(mean), least=2)
    velocity = t if input == "velocity" else held_velocity(t, curvature, dim=dim)[0]
    out, *_ = normalise(moved_axis(velocity, dim, 1), mean, variance, curvature, statistics, eps)
    return moved_axis(out, 1, dim)


@in_float32
def _normalised(t: Tensor, layer: "MidpointBatchNorm", *, input: Coordinates) -> Tensor:
    """Tangents of what a layer makes of t; in training the layer learns from the batch."""
    mean, variance = layer.mean.to(t.dtype), layer.log_variance.to(t.dtype).exp()
    curvature = layer.curvature()
    if isinstance(curvature, Tensor):
        curvature = curvature.to(t.dtype)
    velocity = t if input == "velocity" else held_velocity(t, curvature, dim=layer.dim)[0]
    velocity = moved_axis(velocity, layer.dim, 1)
    given = layer.statistics(velocity, curvature)
    running = layer.following(velocity)
    out, *_ = normalise(velocity, mean, variance, curvature, given, layer.eps, running)
    return moved_axis(out, 1, layer.dim)


class MidpointBatchNorm(MidpointNorm):
    """Batch normalisation of the Poincaré ball, tangents or velocities in and tangents out.

    Args:
        num_features: D, at least 1.
        curvature: c, or a shared `BallCurvature`.
        eps: Added to σ², above 0.
        momentum: Weight of a new batch in the running statistics, in [0, 1]; None averages all
            batches alike.
        track_running_stats: Whether evaluation uses running statistics; without, it uses the
            batch's, as the reference does.
        synchronised: Whether the processes of a distributed run normalise together.
        dim: The axis of D.
        input: `tangent`, or `velocity` after a layer that returns those.

    Shape:
        (B, D), (B, D, H, W) or any with D on `dim` -> the same. A batch without points leaves the
        running statistics as they are; a single point is its own midpoint and goes to β.

    Raises:
        ValueError: a size or number out of range; at the call, another shape.
    """

    def __init__(
        self,
        num_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        eps: float = 1e-6,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        synchronised: bool = False,
        dim: int = 1,
        input: Coordinates = "tangent",
    ) -> None:
        """Make β at the origin, γ = 1 and the statistics of points at a mean distance of 1."""
        super().__init__(
            num_features, curvature, eps, momentum, track_running_stats, synchronised, dim
        )
        check_coordinates("input", input)
        self.input: Coordinates = input

    def forward(self, t: Tensor) -> Tensor:
        """Normalise by the batch in training, by the running statistics in evaluation."""
        check_axis("t", t, self.dim, self.num_features, least=2)
        return _normalised(t, self, input=self.input)
