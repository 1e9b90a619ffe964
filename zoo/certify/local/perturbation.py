"""The ball around each sample that a local certificate speaks of."""

# Shape letters: N samples, K rows, d inputs.

import math
from typing import NamedTuple

from torch import Tensor

from ..projected_ascent import Norm
from .relaxation import SLACK

__all__ = ["Ball"]


class Ball(NamedTuple):
    """Points within a radius of each sample.

    Attributes:
        centre: (N, d) in float64.
        radius: (N,).
        norm: `l2` or `linf`.
    """

    centre: Tensor
    radius: Tensor
    norm: Norm

    @property
    def length(self) -> Tensor:
        """The largest L2 norm of a difference to the centre (N,)."""
        corner = math.sqrt(self.centre.shape[1]) if self.norm == "linf" else 1.0
        return self.radius * (corner * SLACK)

    def width(self, rows: Tensor) -> Tensor:
        """Return the largest product of rows (…, N, K, d) with a difference (N, K)."""
        dual = rows.norm(dim=2) if self.norm == "l2" else rows.abs().sum(2)
        return dual * (self.radius[:, None] * SLACK)
