"""The parameters and running statistics of normalisation around a midpoint."""

# Shape letters: D channels.

import torch
from torch import nn

from ...decay import exclude_from_decay
from ...sizes import check_sizes
from ..curvature import BallCurvature, curvature_of
from ..running_midpoint import RunningMidpoint

__all__ = ["MidpointNorm"]


class MidpointNorm(RunningMidpoint):
    """A norm that puts points around β, a learned point (D,), at a learned mean distance.

    Args:
        num_features: D, at least 1.
        curvature: c, or a shared `BallCurvature`.
        eps: Added to what is divided by, above 0.
        momentum: As in `RunningMidpoint`, like the next two.
        track_running_stats: As above.
        synchronised: As above.
        dim: The axis of D.

    Raises:
        ValueError: a size or number out of range.
    """

    def __init__(
        self,
        num_features: int,
        curvature: float | BallCurvature,
        eps: float,
        momentum: float | None,
        track_running_stats: bool,
        synchronised: bool,
        dim: int,
    ) -> None:
        """Make β at the origin, γ = 1 and the statistics of points at a mean distance of 1."""
        check_sizes(1, num_features=num_features)
        super().__init__(num_features, momentum, track_running_stats, synchronised)
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps}")
        self.num_features = num_features
        self.curvature = curvature_of(curvature)
        self.eps, self.dim = eps, dim
        self.mean = nn.Parameter(torch.empty(num_features))
        self.log_variance = nn.Parameter(torch.empty(()))
        exclude_from_decay(self, "mean", "log_variance")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put β at the origin, γ at 1, and forget the statistics."""
        nn.init.zeros_(self.mean)
        nn.init.zeros_(self.log_variance)
        self.reset_running_stats()

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
