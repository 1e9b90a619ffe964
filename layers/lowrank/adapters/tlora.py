"""TLoRA: a frozen weight after a trained transform of its inputs, plus a trained residual.

    W_eff = W T + Δ        T (columns, columns) and Δ (rows, columns) as rings of two tensors:

    T[(i₁ i₂), (j₁ j₂)] = Σ_{rs} P[i₁, j₁, r, s] Q[i₂, j₂, s, r],        R ring components r, s

All entries of P and Q start at I / R, so T starts at the identity exactly; of Δ the first tensor
starts at 0. A change of the inputs, such as a permutation or a rotation within factors of their
number, needs few numbers here and a large rank as a sum.

Source: Tao et al. 2025, "Transformed Low-rank Adaptation via Tensor Decomposition and Its
Applications to Text-to-image Models", arXiv:2501.08727.
Differs from it: rings of two tensors; sides are split into their two most equal whole factors. In a
linear layer T is applied to the inputs, and no dense product made, where they are few.
"""

from math import isqrt

import torch
from torch import Tensor, nn

from ..maths.random_vectors import normal
from ..target import Target
from ..weights.structure import FrozenDense, WeightStructure
from .adapter import Adapter

__all__ = ["RingTransform", "TLoRA", "ring_matrix", "two_factors"]


def two_factors(size: int) -> tuple[int, int]:
    """Return the two most equal whole factors of a size, the smaller first."""
    first = next(n for n in range(isqrt(size), 0, -1) if size % n == 0)
    return first, size // first


def ring_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Return the matrix (..., i₁ i₂, j₁ j₂) of a ring of P (..., i₁, j₁, R, R) and Q likewise."""
    whole = torch.einsum("...abrs,...cdsr->...acbd", first, second)
    return whole.flatten(-4, -3).flatten(-2, -1)


class RingTransform(WeightStructure):
    """A frozen weight, a transform of its inputs and a residual, both rings of two tensors.

    Args:
        weight: W (..., rows, columns).
        rank: R.
        generator: Of the residual's second tensor.

    Attributes:
        first: P of T (..., j₁, j₁, R, R).
        second: Q of T (..., j₂, j₂, R, R).
        residual_first: P of Δ (..., i₁, j₁, R, R).
        residual_second: Q of Δ (..., i₂, j₂, R, R).
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        """Start at the weight itself."""
        super().__init__()
        self.shape, self.rank = tuple(weight.shape), rank
        self.extra = FrozenDense(weight)
        *batch, rows, columns = weight.shape
        (i, k), (j, m) = two_factors(rows), two_factors(columns)
        like = {"dtype": weight.dtype, "device": weight.device}

        def unit(size: int) -> nn.Parameter:
            eye = torch.eye(size, **like)[:, :, None, None] / rank
            return nn.Parameter(eye.expand(*batch, size, size, rank, rank).clone())

        self.first, self.second = unit(j), unit(m)
        self.residual_first = nn.Parameter(weight.new_zeros(*batch, i, j, rank, rank))
        deviation = (rows / columns) ** 0.5 / (m * rank)
        drawn = normal((*batch, k, m, rank, rank), deviation, weight, generator)
        self.residual_second = nn.Parameter(drawn)

    def transform(self) -> Tensor:
        """Return T (..., columns, columns)."""
        return ring_matrix(self.first, self.second)

    def dense(self) -> Tensor:
        """Return W T + Δ."""
        change = ring_matrix(self.residual_first, self.residual_second)
        return self.extra.dense() @ self.transform() + change

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Transform the inputs, multiply by the weight, and add the residual."""
        if x.numel() > self.shape[-1] ** 2:
            # The rings of more inputs than there are columns cost more than W_eff, made once.
            return super().linear(x, bias)
        sides = x.unflatten(-1, (self.first.shape[-4], -1))
        half = torch.einsum("...bd,cdsr->...bcsr", sides, self.second)
        moved = torch.einsum("...bcsr,abrs->...ac", half, self.first).flatten(-2)
        half = torch.einsum("...bd,cdsr->...bcsr", sides, self.residual_second)
        added = torch.einsum("...bcsr,abrs->...ac", half, self.residual_first).flatten(-2)
        y = self.extra.linear(moved, bias)
        return y + added

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{'x'.join(map(str, self.shape))}, rank={self.rank}"


class TLoRA(Adapter):
    """A transform of the inputs and a residual, as rings of two tensors.

    Args:
        rank: Ring components R, at least 1; 1 is a Kronecker product.

    Raises:
        ValueError: a rank below 1.
    """

    def __init__(self, *, rank: int = 2) -> None:
        """Check and keep the settings."""
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.rank = rank

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return R² (j₁² + j₂² + i₁ j₁ + i₂ j₂)."""
        *batch, rows, columns = shape
        (i, k), (j, m) = two_factors(rows), two_factors(columns)
        return torch.Size(batch).numel() * self.rank**2 * (j * j + m * m + i * j + k * m)

    def refuses(self, target: Target) -> str:
        """Leave out weights that would get more numbers than they have, unless they are named."""
        numbers, size = self.numbers(target.shape), torch.Size(target.shape).numel()
        if numbers < size:
            return ""
        return f"its sides have no factors for which {numbers} numbers are fewer than its {size}"

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> RingTransform:
        """Put the transform and the residual beside the weight."""
        return RingTransform(weight, self.rank, generator)
