"""LQ-LoRA: a quantised weight and the factors that make up best for what it lost.

    W ≈ Q + s B A        Q <- quantised(W - s B A),  s B A <- best of rank r for W - Q,  in turn

Rounding to blocks' scales is no projection, so the error falls and then rises: the best pair is
kept. With squared gradients F the error is weighted, by the means of F over rows and over columns.

With `mean_bits` each weight gets the format, of 432 (`FORMATS`), for which the sum of squared
errors is least while the stored bits, scales included, stay within that mean. A format whose plain
rounding of W loses at least as much as a smaller one's takes no part in that.

Source: Guo et al. 2023, "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient
Language Model Finetuning", arXiv:2311.12023.
Differs from it: the published code returns the pair after the rise; the factors are fitted once
more to what the best pair leaves; formats follow from an exact dynamic programme and need no
solver; the SVD is exact; rows and columns without any gradient have a floor of 10⁻⁶ of the mean
weight, where the published code divides by 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..maths.allocate import allocate
from ..maths.decompose import weighted_svd
from ..target import Target
from ..weights.factors import Factors
from ..weights.quantised import FORMATS, BlockFormat, Quantised
from .adapter import ScaledAdapter

__all__ = ["LQLoRA", "QuantisedPair", "quantised_plus_low_rank", "undominated_formats"]

FLOOR = 1e-6
SURVEY = 2
"""Rounds of the alternation whose error a format is chosen by."""


class QuantisedPair(NamedTuple):
    """A quantised weight, factors beside it, their error, and the errors of all rounds."""

    base: Quantised
    left: Tensor
    right: Tensor
    error: float
    errors: list[float]


@torch.no_grad()
def quantised_plus_low_rank(
    weight: Tensor,
    rank: int,
    how: BlockFormat | int,
    *,
    rounds: int = 100,
    fisher: Tensor | None = None,
) -> QuantisedPair:
    """Return the best pair of the alternation.

    Args:
        weight: W (..., rows, columns).
        rank: r, at least 0.
        how: Format, or bits alone.
        rounds: At most, and until the error rises.
        fisher: Squared gradients, as W, or None.
    """
    rows, columns = (
        (None, None) if fisher is None else (_floored(fisher.mean(-1)), _floored(fisher.mean(-2)))
    )
    best: QuantisedPair | None = None
    base = torch.zeros_like(weight)
    errors: list[float] = []
    for _ in range(rounds):
        left, right, _ = weighted_svd(weight - base, rank, rows, columns)
        found = Quantised(weight - left @ right, how)
        base = found.dense()
        errors.append(_error(weight - base - left @ right, fisher) ** 0.5)
        if best is None or errors[-1] < best.error:
            best = QuantisedPair(found, left, right, errors[-1], errors)
        if len(errors) > 1 and errors[-1] > errors[-2]:
            break
    assert best is not None
    rest = weight - best.base.dense()
    left, right, _ = weighted_svd(rest, rank, rows, columns)
    error = _error(rest - left @ right, fisher) ** 0.5
    # Two means a weight stand for F in the SVD, so that with F it may be no better.
    return QuantisedPair(best.base, left, right, error, errors) if error < best.error else best


@torch.no_grad()
def undominated_formats(weight: Tensor, fisher: Tensor | None = None) -> list[BlockFormat]:
    """Return the formats that round a weight better than every one that takes fewer bits."""
    size, kept, least = weight.numel(), [], float("inf")
    for how in sorted(FORMATS, key=lambda how: how.storage_bits(size)):
        error = _error(weight - Quantised(weight, how).dense(), fisher)
        if error < least:
            kept, least = [*kept, how], error
    return kept


class LQLoRA(ScaledAdapter):
    """A quantised weight and the factors that make up best for what it lost.

    Args:
        rank: r, or a share of the full rank.
        alpha: α > 0; s = α / r, folded into the start.
        bits: b of every weight, from 2 to 8, in blocks of 64 weights and 256 scales.
        mean_bits: Stored bits a weight, scales included, instead of one format for all.
        chosen: Format of each weight by name, such as 3/8/fp32/64/256, instead of both; what a
            saved model remembers.
        rounds: Of the alternation, at most.

    Raises:
        ValueError: a setting out of its range.
    """

    moves_weight = True
    kept_whole = False

    def __init__(
        self,
        *,
        rank: int | float = 8,
        alpha: float = 16.0,
        bits: int = 3,
        mean_bits: float | None = None,
        chosen: dict[str, str] | None = None,
        rounds: int = 100,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank, alpha=alpha)
        if not 2 <= bits <= 8:
            raise ValueError(f"bits must lie in [2, 8], got {bits}")
        if mean_bits is not None and not mean_bits > 0:
            raise ValueError(f"mean_bits must be above 0, got {mean_bits}")
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        self.bits, self.mean_bits, self.rounds = bits, mean_bits, rounds
        found = {} if chosen is None else chosen
        read = {name: str(BlockFormat.read(text)) for name, text in found.items()}
        self.chosen = None if chosen is None else read
        self._fisher: dict[str, Tensor] = {}

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Keep squared gradients, which then weight the error."""
        self._fisher = dict(statistics)

    def prepare(self, targets: Mapping[str, Target], skipped: Mapping[str, str]) -> dict[str, str]:
        """Choose the format of each weight."""
        super().prepare(targets, skipped)
        if self.mean_bits is None or self.chosen is not None:
            return {}
        if any(target.matrix().is_meta for target in targets.values()):
            self.chosen = {name: str(BlockFormat(self.bits)) for name in targets}
            return {}  # sizes are all that is asked for
        formats, costs, sizes, dense = [], [], [], 0
        for name, target in targets.items():
            matrix, fisher = target.matrix(), self._fisher.get(name)
            rank, rounds = self.rank_for(name, tuple(matrix.shape)), min(SURVEY, self.rounds)
            formats.append(undominated_formats(matrix, fisher))
            pairs = (
                quantised_plus_low_rank(matrix, rank, how, rounds=rounds, fisher=fisher)
                for how in formats[-1]
            )
            costs.append([pair.error**2 for pair in pairs])
            sizes.append([float(how.storage_bits(matrix.numel())) for how in formats[-1]])
            dense += matrix.numel()
        least = sum(min(row) for row in sizes)
        if least > self.mean_bits * dense:
            raise ValueError(
                f"mean_bits={self.mean_bits:g} is below what two bits a weight and their scales "
                f"take, {least / dense:.3f}"
            )
        places = allocate(costs, sizes, self.mean_bits * dense)
        found = zip(targets, formats, places, strict=True)
        self.chosen = {name: str(each[place]) for name, each, place in found}
        return {}

    def decided(self) -> dict[str, Any]:
        """Return the format of each weight."""
        return {} if self.chosen is None else {"chosen": self.chosen}

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Round the weight, and start the factors at what it lost."""
        *batch, rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        how = BlockFormat.read((self.chosen or {}).get(name, self.bits))
        if weight.is_meta:
            left = weight.new_empty(*batch, rows, rank)
            right = weight.new_empty(*batch, rank, columns)
            return Factors(left, right, scale=self.scale_of(rank), extra=Quantised(weight, how))
        found = quantised_plus_low_rank(
            weight, rank, how, rounds=self.rounds, fisher=self._fisher.get(name)
        )
        scale = self.scale_of(rank)
        half = scale**-0.5
        return Factors(half * found.left, half * found.right, scale=scale, extra=found.base)


def _error(rest: Tensor, fisher: Tensor | None) -> float:
    """Return the sum of squares, weighted where there are weights."""
    square = rest.double().square()
    return float((square if fisher is None else square * fisher).sum())


def _floored(means: Tensor) -> Tensor:
    """Return means of squared gradients, none of which is nothing."""
    return means.clamp_min(FLOOR * float(means.mean()))
