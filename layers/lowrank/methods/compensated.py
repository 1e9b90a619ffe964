"""Low-rank paths beside compressed weights: what EoRA leaves, and no method at all.

    W = Ŵ + B A,    Ŵ frozen: pruned, quantised or truncated

Nothing happens in training but that of the factors. A saved model is rebuilt by it, and it is the
way to fine-tune one. The factors of a fresh model are those of LoRA, B = 0.

Source: Liu et al. 2024, "EoRA: Fine-tuning-free Compensation for Compressed LLM with Eigenspace
Low-Rank Approximation", arXiv:2410.21271.
Differs from it: Ŵ is stored dense, whatever made it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..maths.random_vectors import uniform
from ..method import Method
from ..weights.factors import Factors
from ..weights.structure import FrozenDense

__all__ = ["Compensated"]


class Compensated(Method):
    """Factors of one rank for each named weight, added to the weight itself, which is frozen.

    Args:
        ranks: Rank of each weight by the name of its module, at least 1; None gives every target a
            quarter of its full rank.

    Raises:
        ValueError: no names, or a rank below 1.
    """

    skips_uneconomic = False
    takes_frozen = True  # a compressed model may be one for inference

    def __init__(self, *, ranks: dict[str, int] | None = None) -> None:
        """Keep the ranks."""
        if ranks is not None and not ranks:
            raise ValueError("ranks must name at least one weight")
        for name, rank in (ranks or {}).items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"ranks: {name} must have a whole rank of at least 1, got {rank}")
        self.ranks = None if ranks is None else dict(ranks)

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the rank that was given for a name."""
        full = min(shape[-2:])
        if self.ranks is None:
            return max(1, full // 4)
        if name not in self.ranks:
            raise ValueError(f"ranks does not name {name}; the names of ranks are the targets")
        if self.ranks[name] > full:
            raise ValueError(f"ranks: {name} has rank {full} at most, got {self.ranks[name]}")
        return self.ranks[name]

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put factors over the weight; W stays the same."""
        *batch, rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        # As torch draws the weight of a linear layer with as many inputs.
        right = uniform((*batch, rank, columns), columns**-0.5, weight, generator)
        return Factors(weight.new_zeros(*batch, rows, rank), right, extra=FrozenDense(weight))
