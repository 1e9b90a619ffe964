"""Midpoint batch normalisation: centre at the midpoint, scale distances, move to a learned point.

`normalisation` has the equations.

Source: van Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027, §3.3.
Differs from it: running statistics exist and are used in evaluation (the reference normalises by
the batch there too); the scale γ, one number for all channels as in the reference, is exp of a
parameter, so that it stays positive.
"""

# Shape letters: B batch, D channels (axis `dim`), ... pixels. A number per point has size 1 on dim.

import torch
from torch import Tensor, distributed, nn

from ..autocast import without_autocast
from ..decay import exclude_from_decay
from .ball import (
    Curvature,
    check_curvature,
    check_range,
    default_margin,
    in_float32,
)
from .coordinates import (
    Coordinates,
    check_coordinates,
    tangent_to_velocity,
)
from .curvature import BallCurvature, curvature_of
from .fused_norm import normalise
from .fused_weights import move_midpoint, point_velocity
from .hyperplanes import held_velocity
from .normalisation import MidpointStatistics, midpoint_statistics, number_of_points
from .shapes import check_axis, check_one_number, check_shape

__all__ = ["MidpointBatchNorm", "MidpointStatistics", "midpoint_batch_norm", "midpoint_statistics"]


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
    target = point_velocity(mean, curvature)
    found = (None, None) if statistics is None else (statistics.mean.flatten(), statistics.spread)
    out, *_ = normalise(velocity.movedim(dim, 1), target, variance, curvature, *found, eps)
    return out.movedim(1, dim)


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
        (B, D), (B, D, H, W) or any with D on `dim` -> the same. A batch without points leaves the
        running statistics as they are; a single point is its own midpoint and goes to β.

    Raises:
        ValueError: a size or number out of range; at the call, another shape.
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
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Forget the statistics, as the method of that name of `nn.BatchNorm2d` does."""
        if self.running_mean is not None:
            assert self.running_var is not None and self.num_batches_tracked is not None
            self.running_mean.zero_()
            self.running_var.fill_(1.0)
            self.num_batches_tracked.zero_()

    def forward(self, t: Tensor) -> Tensor:
        """Normalise by the batch in training, by the running statistics in evaluation."""
        check_axis("t", t, self.dim, self.num_features, least=2)
        default_margin(t.dtype)
        check_range(t.dtype, "input", self.input)
        half = t.dtype in (torch.float16, torch.bfloat16)
        wide = t.float() if half else t
        mean, log_variance = self.mean.to(wide.dtype), self.log_variance.to(wide.dtype)
        curvature = self.curvature()
        if isinstance(curvature, Tensor):
            curvature = curvature.to(wide.dtype)
        with without_autocast(t):
            velocity = wide
            if self.input == "tangent":
                velocity, _ = held_velocity(wide, curvature, dim=self.dim)
            velocity = velocity.movedim(self.dim, 1)
            target = point_velocity(mean, curvature)
            arguments = (velocity, target, log_variance.exp(), curvature)
            out, *found = normalise(*arguments, *self._given(velocity, curvature), self.eps)
            if self.training and self.running_mean is not None:
                self._track(MidpointStatistics(*found), curvature, self._seen(velocity))
        return out.movedim(1, self.dim).to(t.dtype)

    def _given(
        self, velocity: Tensor, curvature: Curvature
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return M and σ²c where they are not those of this process's batch."""
        if self.training or self.running_mean is None:
            if not (self.synchronised and distributed.is_initialized()):
                return None, None
            shared = midpoint_statistics(velocity, synchronised=True)
            return shared.mean.flatten(), shared.spread
        assert self.running_var is not None
        mean, variance = (x.to(velocity.dtype) for x in (self.running_mean, self.running_var))
        return tangent_to_velocity(mean, curvature), variance * curvature

    def _seen(self, velocity: Tensor) -> float | Tensor:
        """Return 1 if there are points to learn from, or 0: a tensor if other processes know."""
        if self.synchronised and distributed.is_initialized():
            return number_of_points(velocity, synchronised=True).clamp_max_(1)
        return float(velocity.numel() > 0)

    @torch.no_grad()
    def _track(
        self, statistics: MidpointStatistics, curvature: Curvature, seen: float | Tensor
    ) -> None:
        """Move the running midpoint along the geodesic's chord, and average the variance."""
        assert self.running_mean is not None and self.running_var is not None
        if not isinstance(seen, Tensor) and seen == 0:
            return
        if self.num_batches_tracked is not None:  # None while activations are recomputed
            self.num_batches_tracked += seen.long() if isinstance(seen, Tensor) else 1
        if self.momentum == 0.0:
            return
        if self.momentum is None:
            assert self.num_batches_tracked is not None
            count = self.num_batches_tracked.to(statistics.spread.dtype)
            weight = seen / count.clamp_min(1)
        else:
            weight = self.momentum * seen
        now, spread = statistics.mean.flatten(), statistics.spread
        move_midpoint(self.running_mean, self.running_var, now, spread, curvature, weight)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
