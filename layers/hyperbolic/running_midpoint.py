"""Running statistics of the points that a layer has seen: their midpoint and mean squared distance.

A batch's midpoint M, with the share w of what is learned from it, moves the running midpoint R
along the chord of their geodesic, (1 − w) R + w M on the hyperboloid, scaled back onto it; the mean
squared distance is averaged.
"""

# Shape letters: D channels.

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

from .maths.ball import Curvature, root
from .maths.coordinates import tangent_to_velocity, velocity_to_tangent
from .midpoint import MidpointStatistics, midpoint_statistics, number_of_points

__all__ = ["Following", "RunningMidpoint", "follow"]


class Following(NamedTuple):
    """Running statistics that follow a batch: a midpoint as a tangent (D,), σ², and the share w."""

    midpoint: Tensor
    variance: Tensor
    share: float | Tensor


class RunningMidpoint(nn.Module):
    """A layer that keeps the midpoint of its batches as a tangent (D,), and their mean σ².

    Args:
        num_features: D.
        momentum: Weight w of a new batch, in [0, 1]; None averages all batches alike.
        track_running_stats: Whether there are statistics at all.
        synchronised: Whether the processes of a distributed run share their points.

    Raises:
        ValueError: a momentum out of range.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        momentum: float | None,
        track_running_stats: bool,
        synchronised: bool,
    ) -> None:
        """Make the statistics of points at a mean distance of 1 from the origin."""
        super().__init__()
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1] or be None, got {momentum}")
        self.momentum, self.synchronised = momentum, synchronised
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

    def statistics(
        self, x: Tensor, curvature: Curvature, *, space: bool = False
    ) -> MidpointStatistics | None:
        """What velocities (B, D, …), or space parts, are normalised by; None: their own statistics.

        In evaluation that is the running ones, if there are any: the velocity of the running
        midpoint (D,), and σ²c. Otherwise it is the batch, with those of all processes that share.
        """
        if self.running_mean is not None and self.running_var is not None and not self.training:
            mean, variance = (each.to(x.dtype) for each in (self.running_mean, self.running_var))
            return MidpointStatistics(tangent_to_velocity(mean, curvature), variance * curvature)
        if self.synchronised and distributed.is_initialized():
            velocity = root(curvature) * x if space else x
            return midpoint_statistics(velocity, synchronised=True)
        return None

    def following(self, velocity: Tensor) -> Following | None:
        """Count a batch, and return what moves towards its statistics; None where nothing does.

        Args:
            velocity: The batch; one without points is not counted.
        """
        midpoint, variance = self.running_mean, self.running_var
        if midpoint is None or variance is None or not self.training:
            return None
        shared = self.synchronised and distributed.is_initialized()
        if not shared and not velocity.numel():
            return None
        # 1 if there are points, otherwise 0; a tensor if other processes know.
        seen = number_of_points(velocity, synchronised=True).clamp_max_(1) if shared else 1.0
        count = self.num_batches_tracked
        if count is not None:  # None while activations are recomputed
            count += seen.long() if isinstance(seen, Tensor) else 1
        if self.momentum == 0.0:
            return None
        if self.momentum is not None:
            return Following(midpoint, variance, self.momentum * seen)
        assert count is not None
        return Following(midpoint, variance, seen / count.to(velocity.dtype).clamp_min(1))


@torch.no_grad()
def follow(running: Following, statistics: MidpointStatistics, curvature: Curvature) -> None:
    """Move running statistics in place towards M (D,) and σ²c of a batch: the definition."""
    midpoint, variance, share = running
    now, spread = statistics
    # Statistics may be narrower than what they are made of.
    before = tangent_to_velocity(midpoint.to(now.dtype), curvature)
    space = (1 - share) * before + share * now
    time = (1 - share) * (1 + before.square().sum()).sqrt()
    time = time + share * (1 + now.square().sum()).sqrt()
    mean = space / (time.square() - space.square().sum()).sqrt()
    midpoint.copy_(velocity_to_tangent(mean, curvature))
    variance.copy_(variance.to(spread.dtype).lerp(spread / curvature, share))
