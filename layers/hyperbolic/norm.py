"""Midpoint batch normalisation: centre at the midpoint, scale distances, move to a learned point.

With ω_i the velocities of all points of a batch and X_i their times (`coordinates`):

    M  = Σω / √((ΣX)² − ‖Σω‖²)                    the batch's midpoint, M₀ its time
    σ² = mean ρ_i²/c,   cosh ρ_i = M₀X_i − ⟨ω_i, M⟩    mean squared distance from it
    out = T(the point at the fraction s = √(γ/(σ² + ε)) of the geodesic from M to the input)

where T is the isometry that carries M to the learned mean β along their geodesic. That is the chain
−M ⊕ x, logarithm, transport, scaling, exponential at β of the reference, and it collapses to

    out = k ω + q M + p b
    C = cosh(sρ),  k = sinh(sρ)/sinh(ρ),  k₁ = C − k cosh ρ,  g = M₀B₀ − ⟨M, b⟩
    μ = (C + k₁g + k(B₀X − ⟨ω, b⟩))/(1 + g),  q = k₁ − μ,  p = 2C − μ

with b, B₀ velocity and time of β: three numbers per point beside one pass over the channels.

Source: van Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027, §3.3; the midpoint is Ungar's.
Differs from it: running statistics exist and are used in evaluation (the reference normalises by the
batch there too); the scale γ, one number for all channels as in the reference, is exp of a
parameter, so that it stays positive.
"""

# Shape letters: B batch, D channels (axis `dim`), ... pixels. A number per point has size 1 on dim.

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

from ..decay import exclude_from_decay
from .ball import Curvature, check_curvature, in_float32, inner, squared_norm
from .coordinates import (
    Coordinates,
    check_coordinates,
    tangent_to_velocity,
    velocity_to_tangent,
)
from .curvature import BallCurvature, curvature_of
from .hyperplanes import LIMIT, cap
from .radial import asinhc, cosh_of_square, sinhc

__all__ = ["MidpointBatchNorm", "MidpointStatistics", "midpoint_batch_norm", "midpoint_statistics"]


class MidpointStatistics(NamedTuple):
    """What a batch is normalised by: the velocity M, with size 1 except on `dim`, and σ²·c."""

    mean: Tensor
    spread: Tensor


def midpoint_statistics(
    velocity: Tensor, *, dim: int = 1, synchronised: bool = False
) -> MidpointStatistics:
    """Return midpoint and mean squared angle ρ² of velocities, over all axes but D.

    Args:
        velocity: ω (B, …, D, …).
        dim: The axis of D.
        synchronised: Whether the processes of a distributed run share their points.
    """
    axes = tuple(axis for axis in range(velocity.dim()) if axis != dim % velocity.dim())

    def mean(x: Tensor) -> Tensor:
        total = x.sum(axes, keepdim=True)
        count = torch.full_like(total[:1].flatten()[:1], x.numel() / total.numel())
        if synchronised and distributed.is_initialized():
            total, count = all_reduce(total), all_reduce(count)
        return total / count

    centre = mean(velocity)
    time = (1 + squared_norm(centre, dim)).sqrt()
    # |ΣX| is a difference of large squares where all points are far out. Around the mean of the
    # velocities it is 1 plus what the distances from there add.
    excess = mean(_excess(velocity, centre, dim))
    midpoint = centre / (1 + excess * (2 + excess / time.square())).sqrt()
    return MidpointStatistics(midpoint, mean(_squared_angle(velocity, midpoint, dim)).squeeze())


def midpoint_transform(
    velocity: Tensor, mean: Tensor, target: Tensor, scale: Tensor, *, dim: int = 1
) -> Tensor:
    """Scale distances from `mean` by s and carry the result to `target`, all velocities.

    Distances beyond 30/√c end there, along their geodesic.
    """
    time = (1 + squared_norm(velocity, dim)).sqrt()
    mean_time = (1 + squared_norm(mean, dim)).sqrt()
    target_time = (1 + squared_norm(target, dim)).sqrt()
    square = _squared_angle(velocity, mean, dim)
    scaled, held = cap(scale.square() * square, LIMIT)
    stretched = cosh_of_square(scaled)
    along_point = held * scale * sinhc(scaled) / sinhc(square)
    along_mean = stretched - along_point * cosh_of_square(square)
    between = mean_time * target_time - inner(mean, target, dim)
    to_target = target_time * time - inner(velocity, target, dim)
    both = (stretched + along_mean * between + along_point * to_target) / (1 + between)
    return along_point * velocity + (along_mean - both) * mean + (2 * stretched - both) * target


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
        ValueError: a curvature that is not positive, a dtype other than a float's, or float16
            velocities.
    """
    check_curvature(curvature)
    velocity = t if input == "velocity" else tangent_to_velocity(t, curvature, dim=dim)
    found = midpoint_statistics(velocity, dim=dim) if statistics is None else statistics
    target = along(tangent_to_velocity(mean, curvature), t, dim)
    scale = (variance / (found.spread / curvature + eps)).sqrt()
    out = midpoint_transform(velocity, found.mean, target, scale, dim=dim)
    return velocity_to_tangent(out, curvature, dim=dim)


def along(vector: Tensor, like: Tensor, dim: int) -> Tensor:
    """Shape a vector (D,) so that it lies on axis `dim` of a tensor like another."""
    shape = [1] * like.dim()
    shape[dim] = -1
    return vector.view(shape)


def _excess(velocity: Tensor, point: Tensor, dim: int) -> Tensor:
    """Return cosh ρ − 1 between velocities, by the form that keeps more digits."""
    time = (1 + squared_norm(velocity, dim)).sqrt()
    other = (1 + squared_norm(point, dim)).sqrt()
    square, product = squared_norm(velocity - point, dim), time * other
    near = (square - (time - other).square()) / 2
    far = product - inner(velocity, point, dim) - 1
    return torch.where(square < product, near, far).clamp_min(0.0)


def _squared_angle(velocity: Tensor, point: Tensor, dim: int) -> Tensor:
    half = _excess(velocity, point, dim) / 2
    return 4 * half * asinhc(half).square()


class MidpointBatchNorm(nn.Module):
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
        (B, D), (B, D, H, W) or any with D on `dim` -> the same.

    Raises:
        ValueError: a size or number out of range.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

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
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1] or be None, got {momentum}")
        check_coordinates("input", input)
        self.num_features = num_features
        self.curvature = curvature_of(curvature)
        self.eps = eps
        self.momentum = momentum
        self.synchronised = synchronised
        self.dim = dim
        self.input: Coordinates = input
        self.mean = nn.Parameter(torch.empty(num_features))
        self.log_variance = nn.Parameter(torch.empty(()))
        exclude_from_decay(self, "mean", "log_variance")
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features) if tracked else None)
        self.register_buffer("running_var", torch.ones(()) if tracked else None)
        count = torch.zeros((), dtype=torch.long) if tracked else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put β at the origin, γ at 1, and forget the statistics."""
        nn.init.zeros_(self.mean)
        nn.init.zeros_(self.log_variance)
        if self.running_mean is not None:
            assert self.running_var is not None and self.num_batches_tracked is not None
            self.running_mean.zero_()
            self.running_var.fill_(1.0)
            self.num_batches_tracked.zero_()

    def forward(self, t: Tensor) -> Tensor:
        """Normalise by the batch in training, by the running statistics in evaluation."""
        curvature = self.curvature()
        if self.training or self.running_mean is None:
            dtype = torch.float32 if t.dtype in (torch.float16, torch.bfloat16) else t.dtype
            velocity = t.to(dtype)
            if self.input == "tangent":
                velocity = tangent_to_velocity(velocity, curvature, dim=self.dim)
            statistics = midpoint_statistics(velocity, dim=self.dim, synchronised=self.synchronised)
            if self.training and self.running_mean is not None:
                self._track(statistics, curvature)
        else:
            assert self.running_var is not None
            mean = along(tangent_to_velocity(self.running_mean, curvature), t, self.dim)
            statistics = MidpointStatistics(mean, self.running_var * curvature)
        return midpoint_batch_norm(
            t,
            self.mean,
            self.log_variance.exp(),
            curvature,
            statistics=statistics,
            eps=self.eps,
            dim=self.dim,
            input=self.input,
        )

    @torch.no_grad()
    def _track(self, statistics: MidpointStatistics, curvature: Curvature) -> None:
        """Move the running midpoint along the geodesic's chord, and average the variance."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        weight = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        before = tangent_to_velocity(self.running_mean, curvature)
        now = statistics.mean.flatten()
        space = (1 - weight) * before + weight * now
        time = (1 - weight) * (1 + before.square().sum()).sqrt()
        time = time + weight * (1 + now.square().sum()).sqrt()
        mean = space / (time.square() - space.square().sum()).sqrt()
        self.running_mean.copy_(velocity_to_tangent(mean, curvature))
        self.running_var.lerp_(statistics.spread / curvature, weight)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
