"""Moments of the inputs of a layer: the statistics that calibrated decompositions weight by.

Sums of x, |x| and x xᵀ over all input vectors x of a linear map y = W x, in float64, and the mean
squared gradient of W. Where W is wide, the sums of (W x) (W x)ᵀ say as much of it and are smaller:
16 × 16 numbers instead of 8192 × 8192 for a matrix of 16 × 8192.
"""

# Shape letters: m rows and n columns of W, ... one matrix a group where there is more than one.

from dataclasses import dataclass

import torch
from torch import Tensor

from .decompose import at_least_float32

__all__ = ["InputMoments", "Moments", "OutputMoments"]


@dataclass
class Moments:
    """What both kinds of moments hold of the inputs of one layer.

    Attributes:
        count: Number of vectors x, of each group.
        total: Σ x (..., n).
        magnitude: Σ |x| (..., n).
    """

    count: int
    total: Tensor
    magnitude: Tensor

    @property
    def mean(self) -> Tensor:
        """E[x] (..., n)."""
        return self.total / self.count

    @property
    def mean_magnitude(self) -> Tensor:
        """E[|x|] (..., n)."""
        return self.magnitude / self.count

    def add(self, x: Tensor) -> None:
        """Count vectors (..., n, N)."""
        x = x.detach()
        self.count += x.shape[-1]
        self.total += x.sum(-1, dtype=torch.float64)
        self.magnitude += x.abs().sum(-1, dtype=torch.float64)


@dataclass
class InputMoments(Moments):
    """Sums over the inputs of one layer.

    Attributes:
        second: Σ x xᵀ (..., n, n).
        fisher: Mean over batches of the squared gradient of W (..., rows, n), or None.
    """

    second: Tensor
    fisher: Tensor | None = None

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> "InputMoments":
        """Return zero sums for vectors (..., n)."""
        total = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(0, total, total.clone(), total.new_zeros(*shape, shape[-1]))

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
        super().add(x)
        x = x.detach().double()
        self.second += x @ x.mT


@dataclass
class OutputMoments(Moments):
    """Sums over the inputs of one layer and over what one matrix makes of them.

    Attributes:
        matrix: M (..., m, n), the weight of the layer or what a compression took from it.
        second: Σ (M x) (M x)ᵀ (..., m, m).
        fisher: Mean over batches of the squared gradient of W (..., m, n), or None.
    """

    matrix: Tensor
    second: Tensor
    fisher: Tensor | None = None

    @classmethod
    def empty(cls, matrix: Tensor) -> "OutputMoments":
        """Return zero sums for the vectors that a matrix (..., m, n) multiplies."""
        wide = matrix.detach().double()
        total = torch.zeros_like(wide[..., 0, :])
        second = wide.new_zeros(*wide.shape[:-1], wide.shape[-2])
        return cls(0, total, total.clone(), wide, second)

    @property
    def second_moment(self) -> Tensor:
        """E[y yᵀ] (..., m, m) of y = M x, about zero."""
        return self.second / self.count

    @property
    def covariance(self) -> Tensor:
        """E[(y - E[y]) (y - E[y])ᵀ] (..., m, m) of y = M x, divided by the count."""
        mean = (self.matrix @ self.mean[..., None])[..., 0]
        return self.second_moment - mean[..., :, None] * mean[..., None, :]

    def add(self, x: Tensor) -> None:
        """Count vectors (..., n, N)."""
        super().add(x)
        # The products in the precision of the layer itself: x has thousands of rows.
        x = at_least_float32(x.detach())
        y = (self.matrix.to(x.dtype) @ x).double()
        self.second += y @ y.mT
