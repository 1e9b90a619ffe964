"""Running statistics of the points that a layer has seen: their midpoint and mean squared distance.

A batch's midpoint M, with the share w of what is learned from it, moves the running midpoint R
along the chord of their geodesic, (1 − w) R + w M on the hyperboloid, scaled back onto it; the mean
squared distance is averaged.
"""

# Shape letters: D channels.

import torch
from torch import Tensor, nn

from ._fast.fused_norm import move_midpoint
from .coordinates import tangent_to_velocity, velocity_to_tangent
from .maths.ball import Curvature
from .midpoint import MidpointStatistics

__all__ = ["RunningMidpoint"]


class RunningMidpoint(nn.Module):
    """A layer that keeps the midpoint of its batches as a tangent (D,), and their mean σ².

    Args:
        num_features: D.
        momentum: Weight w of a new batch, in [0, 1]; None averages all batches alike.
        track_running_stats: Whether there are statistics at all.

    Raises:
        ValueError: a momentum out of range.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self, num_features: int, momentum: float | None, track_running_stats: bool
    ) -> None:
        """Make the statistics of points at a mean distance of 1 from the origin."""
        super().__init__()
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1] or be None, got {momentum}")
        self.momentum = momentum
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features) if tracked else None)
        self.register_buffer("running_var", torch.ones(()) if tracked else None)
        count = torch.zeros((), dtype=torch.long) if tracked else None
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Forget the statistics, as the method of that name of `nn.BatchNorm2d` does."""
        if self.running_mean is not None:
            assert self.running_var is not None and self.num_batches_tracked is not None
            self.running_mean.zero_()
            self.running_var.fill_(1.0)
            self.num_batches_tracked.zero_()

    def running_statistics(self, curvature: Curvature, dtype: torch.dtype) -> MidpointStatistics:
        """The velocity of the running midpoint (D,), and σ²c."""
        assert self.running_mean is not None and self.running_var is not None
        mean, variance = self.running_mean.to(dtype), self.running_var.to(dtype)
        return MidpointStatistics(tangent_to_velocity(mean, curvature), variance * curvature)

    @torch.no_grad()
    def track(
        self, statistics: MidpointStatistics, curvature: Curvature, seen: float | Tensor
    ) -> None:
        """Learn from a batch: from its M (D,) and σ²c.

        Args:
            statistics: Those of the batch.
            curvature: c.
            seen: 1 if the batch has points, otherwise 0; a tensor if other processes know.
        """
        midpoint, variance = self.running_mean, self.running_var
        assert midpoint is not None and variance is not None
        if not isinstance(seen, Tensor) and seen == 0:
            return
        if self.num_batches_tracked is not None:  # None while activations are recomputed
            self.num_batches_tracked += seen.long() if isinstance(seen, Tensor) else 1
        if self.momentum == 0.0:
            return
        now, spread = statistics
        if self.momentum is None:
            assert self.num_batches_tracked is not None
            weight = seen / self.num_batches_tracked.to(spread.dtype).clamp_min(1)
        else:
            weight = self.momentum * seen
        if move_midpoint(midpoint, variance, now, spread, curvature, weight):
            return
        # Statistics may be narrower than what they are made of.
        before = tangent_to_velocity(midpoint.to(now.dtype), curvature)
        space = (1 - weight) * before + weight * now
        time = (1 - weight) * (1 + before.square().sum()).sqrt()
        time = time + weight * (1 + now.square().sum()).sqrt()
        mean = space / (time.square() - space.square().sum()).sqrt()
        midpoint.copy_(velocity_to_tangent(mean, curvature))
        variance.copy_(variance.to(spread.dtype).lerp(spread / curvature, weight))
