"""Moments of the inputs of a layer: the statistics that calibrated decompositions weight by.

Sums of x, |x| and x xᵀ over all input vectors x of a linear map y = W x, in float64, and the mean
squared gradient of W.
"""

# Shape letters: n columns of W, ... one matrix a group where there is more than one.

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["InputMoments"]


@dataclass
class InputMoments:
    """Sums over the inputs of one layer.

    Attributes:
        count: Number of vectors x, of each group.
        total: Σ x (..., n).
        magnitude: Σ |x| (..., n).
        second: Σ x xᵀ (..., n, n).
        fisher: Mean over batches of the squared gradient of W (..., rows, n), or None.
    """

    count: int
    total: Tensor
    magnitude: Tensor
    second: Tensor
    fisher: Tensor | None = None

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> "InputMoments":
        """Return zero sums for vectors (..., n)."""
        total = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(0, total, total.clone(), total.new_zeros(*shape, shape[-1]))

    @property
    def mean(self) -> Tensor:
        """E[x] (..., n)."""
        return self.total / self.count

    @property
    def mean_magnitude(self) -> Tensor:
        """E[|x|] (..., n)."""
        return self.magnitude / self.count

    @property
    def second_moment(self) -> Tensor:
        """E[x xᵀ] (..., n, n), about zero."""
        return self.second / self.count

    @property
    def covariance(self) -> Tensor:
        """E[(x - E[x]) (x - E[x])ᵀ] (..., n, n), divided by the count."""
        mean = self.mean
        return self.second_moment - mean[..., :, None] * mean[..., None, :]

    def add(self, x: Tensor) -> None:
        """Count vectors (..., n, N)."""
        x = x.detach().double()
        self.count += x.shape[-1]
        self.total += x.sum(-1)
        self.magnitude += x.abs().sum(-1)
        self.second += x @ x.mT
