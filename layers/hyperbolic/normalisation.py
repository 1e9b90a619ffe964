"""Centring, scaling and moving points of a batch: what midpoint batch normalisation computes.

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

Source: van Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027, §3.3; the midpoint is
Ungar's.
Differs from it: written in velocities, without a map to M and back.
"""

# Shape letters: B batch, D channels (axis `dim`), ... pixels. A number per point has size 1 on dim.

from typing import NamedTuple

from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce

from .ball import Curvature, inner, squared_norm
from .coordinates import velocity_to_tangent
from .hyperplanes import LIMIT, cap
from .midpoint import excess_and_delay
from .radial import asinhc, cosh_of_square, sinhc

__all__ = [
    "MidpointStatistics",
    "midpoint_statistics",
    "midpoint_transform",
    "normalised_tangents",
    "number_of_points",
]


class MidpointStatistics(NamedTuple):
    """What a batch is normalised by: the velocity M, with size 1 except on `dim`, and σ²·c."""

    mean: Tensor
    spread: Tensor


def midpoint_statistics(
    velocity: Tensor, *, dim: int = 1, synchronised: bool = False
) -> MidpointStatistics:
    """Return midpoint and mean squared angle ρ² of velocities, over all axes but D.

    Both are 0 where there are no points.

    Args:
        velocity: ω (B, …, D, …).
        dim: The axis of D.
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
    return MidpointStatistics(midpoint, mean(squared_angle(excess)).squeeze())


def number_of_points(velocity: Tensor, dim: int = 1, *, synchronised: bool = False) -> Tensor:
    """Return how many points there are, on this process or on all of a distributed run."""
    count = velocity.new_full((), velocity.numel() // velocity.shape[dim])
    if synchronised and distributed.is_initialized():
        distributed.all_reduce(count)
    return count


def midpoint_transform(
    velocity: Tensor, mean: Tensor, target: Tensor, scale: Tensor, *, dim: int = 1
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
    between = mean_time * target_time - inner(mean, target, dim)
    delay = target_time * later - inner(apart, target, dim)
    along_mean = -slow * (delay + excess) / (1 + between)
    along_target = cosh_of_square(scaled) + slow * (excess * between - delay) / (1 + between)
    return slow * apart + along_mean * mean + along_target * target


def normalised_tangents(
    velocity: Tensor,
    target: Tensor,
    variance: Tensor,
    curvature: Curvature,
    mean: Tensor | None,
    spread: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tangents, M and σ²c for velocities (B, D, …); this is the definition.

    Args:
        velocity: ω.
        target: b (D,).
        variance: γ.
        curvature: c.
        mean: M (D,), or None for the batch's.
        spread: σ²c, or None for the batch's.
        eps: Added to σ².
    """
    shape = [1, -1, *[1] * (velocity.dim() - 2)]
    if mean is None or spread is None:
        mean, spread = midpoint_statistics(velocity)
    scale = (variance / (spread / curvature + eps)).sqrt()
    out = midpoint_transform(velocity, mean.view(shape), target.view(shape), scale)
    return velocity_to_tangent(out, curvature, dim=1), mean.flatten(), spread


def squared_angle(excess: Tensor) -> Tensor:
    """Return ρ² from cosh ρ − 1."""
    half = excess / 2
    return 4 * half * asinhc(half).square()
