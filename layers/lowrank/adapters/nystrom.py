"""NLoRA, IntTune and SLoRA: a trained matrix between two factors that a weight's own entries give.

    W_eff = W + B N A - W[:, J] N₀ W[I, :],    at the start  B = W[:, J],  A = W[I, :],  N = N₀

I and J are r rows and columns, and N₀ = W[I, J]⁺, so that B N A is W itself where W has rank r.
NLoRA trains B, N and A, IntTune N alone. What is subtracted are entries of the frozen W.

    SLoRA    W_eff = W + s B N A,    B = 0,  A and N drawn

Source: Guo et al. 2025, "NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models",
arXiv:2502.14482.
Differs from it: rows and columns are chosen by pivoting, where the paper takes the first r, which
W[I, J]⁺ then blows up, to a product longer than W. The start is W; the published code leaves the
inverse out and subtracts nothing, which moves the start.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..maths.decompose import at_least_float32
from ..weights.factors import Factors
from ..weights.structure import ConvSettings, FrozenDense, WeightStructure, own_copy
from .adapter import RankedAdapter, ScaledAdapter, fresh_right

__all__ = ["IntTune", "NLoRA", "NystromFactors", "SLoRA", "pivots"]


@torch.no_grad()
def pivots(matrix: Tensor, count: int) -> Tensor:
    """Return places (..., count) of columns that span most of a matrix, by pivoted Gram-Schmidt."""
    if matrix.is_meta:
        shape = (*matrix.shape[:-2], count)
        return torch.empty(shape, dtype=torch.int64, device=matrix.device)
    rest = matrix.double().clone()
    chosen = []
    for _ in range(count):
        lengths = rest.square().sum(-2)
        for earlier in chosen:
            lengths.scatter_(-1, earlier, -1.0)  # of no length but for rounding
        place = lengths.argmax(-1, keepdim=True)
        chosen.append(place)
        column = rest.gather(-1, place[..., None, :].expand(*rest.shape[:-1], 1))
        unit = F.normalize(column, dim=-2)
        rest = rest - unit @ (unit.mT @ rest)
    return torch.cat(chosen, -1)


class NystromFactors(Factors):
    """A frozen weight, and factors that start at some of its own rows and columns.

    Args:
        weight: W (..., rows, columns).
        rank: r.
        trained: As in `Factors`.

    Attributes:
        start: N₀ (..., r, r), not trained.
        row_places: I (..., r).
        column_places: J (..., r).
    """

    row_places: Tensor
    column_places: Tensor

    def __init__(self, weight: Tensor, rank: int, *, trained: tuple[str, ...]) -> None:
        """Choose rows and columns."""
        columns = pivots(weight, rank)
        rows = pivots(_columns(weight, columns).mT, rank)
        block = _columns(_columns(weight.mT, rows).mT, columns)
        core = torch.linalg.pinv(at_least_float32(block)).to(weight.dtype)
        left, right = _columns(weight, columns), _columns(weight.mT, rows).mT
        super().__init__(left, right, core=core, extra=FrozenDense(weight), trained=trained)
        self.start = nn.Parameter(own_copy(core), requires_grad=False)
        self.fixed = (*self.fixed, "start")
        self.register_buffer("row_places", rows)
        self.register_buffer("column_places", columns)

    def dense(self) -> Tensor:
        """Return W_eff."""
        first, second = self._subtracted()
        return super().dense() - first @ (self.start @ second)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by one factor after the other."""
        first, second = self._subtracted()
        return super().linear(x, bias) - F.linear(F.linear(x, self.start @ second), first)

    def convolve(self, x: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolve once, with the whole kernel."""
        return WeightStructure.convolve(self, x, bias, settings)

    def _subtracted(self) -> tuple[Tensor, Tensor]:
        """Return W[:, J] and W[I, :]."""
        assert self.extra is not None
        weight = self.extra.dense()
        return _columns(weight, self.column_places), _columns(weight.mT, self.row_places).mT

    def _resize(self, rank: int, optimizers: object) -> None:
        if rank != self.allocated:
            raise ValueError(
                f"the {self.allocated} components cannot become {rank}, since what they started "
                f"at is subtracted; merge() first"
            )


class NLoRA(RankedAdapter):
    """Factors and a matrix between them that start at rows and columns of the weight.

    Args:
        rank: r, or a share of the full rank.

    Raises:
        ValueError: a setting out of its range.
    """

    parts = ("left", "right", "core")

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r (rows + columns + r)."""
        rank = self.rank_for("a weight", shape)
        return super().numbers(shape) + torch.Size(shape[:-2]).numel() * rank**2

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Choose rows and columns of the weight."""
        rank = self.rank_for(name, tuple(weight.shape))
        return NystromFactors(weight, rank, trained=self.parts)


class IntTune(NLoRA):
    """A trained r by r matrix between rows and columns of the weight.

    Args:
        rank: r, or a share of the full rank.

    Raises:
        ValueError: a setting out of its range.
    """

    parts = ("core",)

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r²."""
        return torch.Size(shape[:-2]).numel() * self.rank_for("a weight", shape) ** 2


class SLoRA(ScaledAdapter):
    """LoRA with a trained r by r matrix between its factors.

    Args:
        rank: r, or a share of the full rank.
        alpha: α > 0; s = α / r.

    Raises:
        ValueError: a setting out of its range.
    """

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r (rows + columns + r)."""
        rank = self.rank_for("a weight", shape)
        return super().numbers(shape) + torch.Size(shape[:-2]).numel() * rank**2

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put the factors beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        core = fresh_right(weight.new_empty(*batch, rank, rank), rank, generator)
        return Factors(
            weight.new_zeros(*batch, rows, rank),
            fresh_right(weight, rank, generator),
            core=core,
            scale=self.scale_of(rank),
            extra=FrozenDense(weight),
        )


def _columns(matrix: Tensor, places: Tensor) -> Tensor:
    """Return some columns (..., rows, count) of a matrix."""
    return matrix.gather(-1, places[..., None, :].expand(*matrix.shape[:-1], -1))
