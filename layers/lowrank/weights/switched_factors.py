"""Factors over a frozen matrix that exchange their vectors for others of a pool; W stays the same.

Source: as `methods/switchlora.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from ..maths.random_vectors import uniform
from .factors import Factors
from .structure import FrozenDense, assign, stored_in

__all__ = [
    "COUNTERPART",
    "DIMENSION",
    "Side",
    "SwitchedFactors",
    "initial_deviations",
    "write_entries",
]

Side = Literal["left", "right"]

DIMENSION: dict[Side, int] = {"left": -1, "right": -2}  # the one along which components lie
COUNTERPART: dict[Side, Side] = {"left": "right", "right": "left"}


def initial_deviations(rows: int, columns: int, rank: int) -> tuple[float, float]:
    """Return the standard deviations of B and of A at the start.

    With them B A / r has the variance 1 / (3 columns) of a linear layer's fresh weight, and a
    step on B moves W as far as one on A.
    """
    gain = 3**-0.25
    left = (rank / sqrt(rows * columns)) ** 0.25 * gain
    right = (sqrt(rows) * rank / columns**1.5) ** 0.25 * gain
    return left, right


class SwitchedFactors(Factors):
    """Factors over a frozen matrix, with a pool of vectors for each of them.

    Args:
        weight: W (..., rows, columns) at the start.
        rank: r.
        alpha: Numerator of the scale α / r.
        generator: Of the vectors.

    Attributes:
        pool_left: (..., rows, k); the places of live vectors hold what was there before.
        pool_right: (..., k, columns).
        selected_left: Places (r,) in the pool of the live vectors of B.
        selected_right: Places (r,) of those of A.
    """

    fixed = ("pool_left", "pool_right")
    selected_left: Tensor
    selected_right: Tensor

    def __init__(
        self, weight: Tensor, rank: int, *, alpha: float, generator: torch.Generator
    ) -> None:
        """Draw the pools; W is unchanged."""
        *batch, rows, columns = weight.shape
        size, scale = min(rows, columns), alpha / rank
        deviations = initial_deviations(rows, columns, rank)
        shapes = (*batch, rows, size), (*batch, size, columns)
        pool_left, pool_right = (
            uniform(shape, sqrt(3) * deviation, weight, generator)
            for shape, deviation in zip(shapes, deviations, strict=True)
        )
        left, right = pool_left[..., :rank], pool_right[..., :rank, :]
        fixed = FrozenDense(weight - scale * (left @ right))
        super().__init__(left, right, scale=scale, extra=fixed)
        self.pool_left = nn.Parameter(pool_left, requires_grad=False)
        self.pool_right = nn.Parameter(pool_right, requires_grad=False)
        for name in ("selected_left", "selected_right"):
            self.register_buffer(name, torch.arange(rank, device=weight.device))

    @property
    def pool_size(self) -> int:
        """Number of vectors k in each pool."""
        return self.pool_left.shape[-1]

    def vectors(self, side: Side) -> nn.Parameter:
        """Return the live factor of a side."""
        return self.left if side == "left" else self.right

    def selected(self, side: Side) -> Tensor:
        """Return the places in its pool of a side's live vectors."""
        return self.selected_left if side == "left" else self.selected_right

    def spare(self, side: Side) -> Tensor:
        """Return the places of a pool whose vectors are not live, on the CPU."""
        free = torch.ones(self.pool_size, dtype=torch.bool)
        free[self.selected(side).cpu()] = False
        return free.nonzero().squeeze(-1)

    @torch.no_grad()
    def switch(self, side: Side, live: Tensor, candidates: Tensor) -> None:
        """Exchange live vectors for candidates; W stays the same.

        Args:
            side: Factor.
            live: Components (q,), all different.
            candidates: Places (q,) of the pool, all different, none of them live.
        """
        dim, device = DIMENSION[side], self.left.device
        live, candidates = live.to(device), candidates.to(device)
        vectors, selected = self.vectors(side), self.selected(side)
        pool = self.pool_left if side == "left" else self.pool_right
        old = stored_in(vectors).index_select(dim, live)
        new = stored_in(pool).index_select(dim, candidates)
        other = stored_in(self.vectors(COUNTERPART[side]))
        other = other.index_select(DIMENSION[COUNTERPART[side]], live)
        change = (old - new) @ other if side == "left" else other @ (old - new)
        assert isinstance(self.extra, FrozenDense)
        assign(self.extra.weight, stored_in(self.extra.weight) + self.scale * change)
        write_entries(pool, dim, selected.index_select(0, live), old)
        write_entries(vectors, dim, live, new)
        selected.index_copy_(0, live, candidates)

    def _resize(self, rank: int, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        if rank != self.allocated:
            raise ValueError(
                f"the {self.allocated} switched components cannot become {rank}: they stand over a "
                f"frozen matrix of full rank; merge() first, and truncate what that gives"
            )


@torch.no_grad()
def write_entries(parameter: Tensor, dim: int, index: Tensor, values: Tensor) -> None:
    """Write entries along a dimension, in place where the tensor is whole."""
    if hasattr(parameter, "full_tensor"):
        assign(parameter, stored_in(parameter).index_copy(dim, index, values))
    else:
        parameter.index_copy_(dim, index, values)
