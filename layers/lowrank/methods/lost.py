"""LOST: low rank beside some whole columns of the matrix, picked by what the low rank leaves out.

    y = γ left φ(right x) + (1 - γ) W_s x_J + b

left right is the best approximation of rank r of the fresh matrix W₀. J are the columns with the
largest norms in the part of its spectrum that follows, σ_{r+1} … σ_{r+k}; their values are copied
from W₀ itself, not from that part. φ is SiLU, and then no single matrix equals the layer, or the
identity. At the start the layer is not W₀, so this is for training from scratch.

Source: Li et al. 2025, "LOST: Low-rank and Sparse Pre-training for Large Language Models",
arXiv:2508.02668; defaults of γ, density and k are those of later public code of its first author.
Differs from it: in a convolution a column is one tap of one input channel, and the groups of a
grouped one share J.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..maths.decompose import at_least_float32, balanced_factors, refuse_infinite
from ..method import Method, check_rank, rank_of
from ..weights.factors import Factors
from ..weights.structure import WeightStructure

__all__ = ["LOST", "ColumnTerm", "residual_columns"]


def residual_columns(
    singular_values: Tensor, right: Tensor, rank: int, following: int | None, count: int
) -> Tensor:
    """Return the columns with the largest norms in the spectrum after a rank, ascending (count,).

    With W = P S Q, column j of P_{r:} S_{r:} Q_{r:} has the norm ‖S_{r:} Q_{r:, j}‖.

    Args:
        singular_values: S (..., K), descending.
        right: Q (..., K, columns).
        rank: r.
        following: Components after r that count; None is all.
        count: How many columns.
    """
    end = None if following is None else rank + following
    rest = singular_values[..., rank:end, None] * right[..., rank:end, :]
    energy = rest.square().flatten(0, -2).sum(0)
    return energy.topk(count).indices.sort().values


class ColumnTerm(WeightStructure):
    """A matrix that is zero outside some columns.

    Args:
        values: (..., rows, count).
        index: The columns (count,).
        columns: Number of all columns.
        scale: Multiplies the values.
    """

    index: Tensor

    def __init__(self, values: Tensor, index: Tensor, columns: int, scale: float) -> None:
        """Keep a copy of the values."""
        super().__init__()
        self.shape = (*values.shape[:-1], columns)
        self.values = nn.Parameter(values.detach().clone())
        self.scale = scale
        self.register_buffer("index", index.to(torch.int32))

    def dense(self) -> Tensor:
        """Return the matrix."""
        zeros = self.values.new_zeros(self.shape)
        return zeros.index_add(-1, self.index, self.scale * self.values)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply what the columns read."""
        return F.linear(x.index_select(-1, self.index), self.scale * self.values, bias)


class LOST(Method):
    """Low rank beside some whole columns.

    Args:
        rank: Components, or a share of the full rank.
        gamma: γ in [0, 1], the weight of the low rank.
        density: Share of the columns that are kept, in (0, 1]; at least one is.
        residual_rank: k, components after the rank that choose the columns; None is all.
        activation: φ, `silu` or None.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int | float = 0.25,
        gamma: float = 0.7,
        density: float = 0.05,
        residual_rank: int | None = 256,
        activation: Literal["silu"] | None = "silu",
    ) -> None:
        """Check and keep the settings."""
        check_rank(rank)
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
        if not 0.0 < density <= 1.0:
            raise ValueError(f"density must lie in (0, 1], got {density}")
        if residual_rank is not None and residual_rank < 1:
            raise ValueError(f"residual_rank must be at least 1 or None, got {residual_rank}")
        if activation not in ("silu", None):
            raise ValueError(f"activation must be 'silu' or None, got {activation!r}")
        self.rank, self.gamma, self.density = rank, gamma, density
        self.residual_rank, self.activation = residual_rank, activation

    @property
    def is_matrix(self) -> bool:  # type: ignore[override]
        """Whether there is no activation."""
        return self.activation is None

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def beside(self, shape: tuple[int, ...]) -> int:
        """Return the entries of the columns that are kept."""
        return torch.Size(shape[:-1]).numel() * self._count(shape[-1])

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Split the weight."""
        refuse_infinite(weight, name)
        columns = weight.shape[-1]
        rank = self.rank_for(name, tuple(weight.shape))
        count = self._count(columns)
        left, values, right = torch.linalg.svd(at_least_float32(weight), full_matrices=False)
        index = residual_columns(values, right, rank, self.residual_rank, count)
        left, right = balanced_factors(
            left[..., :rank], values[..., :rank], right[..., :rank, :], split="balanced"
        )
        sparse = ColumnTerm(
            weight.index_select(-1, index.to(weight.device)), index, columns, 1 - self.gamma
        )
        return Factors(
            left.to(weight.dtype),
            right.to(weight.dtype),
            scale=self.gamma,
            between=None if self.activation is None else nn.SiLU(),
            extra=sparse,
        )

    def _count(self, columns: int) -> int:
        return max(1, int(self.density * columns))
