"""Ranks of all layers under one budget of parameters or multiply-accumulates.

A rank costs Σ_{i>r} S_i², the squared error of what it drops, and has the size r · size_per_rank;
staying dense costs nothing and has the size of the dense weight. Only ranks below the break-even
are candidates: beyond it the dense weight is smaller and exact.

    dp          the exact optimum of the summed errors
    threshold   the components that save more error per size than one price: optimal at its own size
    energy      one share e of Σ S² that every layer may lose
    uniform     one share of the full rank for all layers
    welore      one threshold on the singular values, scaled to [0, 1] in every layer

The summed errors of `dp` and `threshold` mean something where the errors of different layers can be
compared: give every layer the weight with which its error reaches the output.

Source: welore, Jaiswal et al. 2024, arXiv:2407.11239; dp and threshold as in `allocate`.
Differs from it: a budget of sizes, beside the reduction of ranks that `welore_ranks` takes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .allocate import allocate, threshold
from .decompose import refuse_infinite
from .singular_values import normalised_spectrum, tail_energy

__all__ = [
    "ALLOCATIONS",
    "RankCosts",
    "allocate_ranks",
    "rank_reduction",
    "threshold_ranks",
    "welore_ranks",
]

Ranks = dict[str, int | None]
"""The rank of every layer by name; None is the dense weight."""


@dataclass(frozen=True, eq=False)
class RankCosts:
    """What the ranks of one layer cost.

    Args:
        singular_values: All of them, (..., K), descending, of the weight or of the weight weighted
            by data; the matrices of a batch share a rank.
        size_per_rank: Parameters, or multiply-accumulates, of one rank.
        dense_size: Those of the dense weight.
        weight: Multiplies the error.
        errors: Measured cost of the ranks 0 to K, (K + 1,), in the place of Σ_{i>r} S_i². Only dp
            and threshold read costs.
        below: Rank from which on the weight stays dense, beside the break-even.

    Raises:
        ValueError: a size that is not positive, a negative weight, NaN or infinite values, or
            errors of another number of ranks.
    """

    singular_values: Tensor
    size_per_rank: float
    dense_size: float
    weight: float = 1.0
    errors: Tensor | None = None
    below: float = math.inf

    def __post_init__(self) -> None:
        """Check the numbers."""
        refuse_infinite(self.singular_values, "singular_values")
        if not (self.size_per_rank > 0 and self.dense_size > 0 and self.weight >= 0):
            raise ValueError(
                f"size_per_rank and dense_size must be above 0 and weight at least 0, got "
                f"{self.size_per_rank}, {self.dense_size} and {self.weight}"
            )
        if self.errors is not None:
            refuse_infinite(self.errors, "errors")
            if self.errors.shape != (self.full_rank + 1,):
                raise ValueError(
                    f"errors must have {self.full_rank + 1} numbers, of the ranks 0 to "
                    f"{self.full_rank}, got {tuple(self.errors.shape)}"
                )

    @property
    def full_rank(self) -> int:
        """K."""
        return self.singular_values.shape[-1]

    def economic(self, rank: int) -> int | None:
        """Return a rank of at least 1, or None where the weight stays dense instead."""
        rank = max(1, rank)
        return rank if rank * self.size_per_rank < self.dense_size and rank < self.below else None

    def size(self, rank: int | None) -> float:
        """Return the size of a rank, or of the dense weight."""
        return self.dense_size if rank is None else rank * self.size_per_rank

    def candidates(self) -> tuple[list[int | None], list[float], list[float]]:
        """Return all ranks that are smaller than the dense weight, and None, with cost and size."""
        ranks: list[int | None] = [
            r for r in range(1, self.full_rank + 1) if self.economic(r) is not None
        ]
        errors = tail_energy(self.singular_values) if self.errors is None else self.errors
        costs = (self.weight * errors)[1 : len(ranks) + 1].tolist()
        ranks.append(None)
        return ranks, [*costs, 0.0], [self.size(rank) for rank in ranks]


def allocate_ranks(layers: Mapping[str, RankCosts], budget: float, method: str = "dp") -> Ranks:
    """Return the ranks of all layers, whose sizes together do not exceed a budget.

    Args:
        layers: By name.
        budget: In the unit of the layers' sizes.
        method: A key of `ALLOCATIONS`.

    Raises:
        ValueError: an unknown method, or a budget below rank 1 everywhere.
    """
    if method not in ALLOCATIONS:
        raise ValueError(f"method must be one of {sorted(ALLOCATIONS)}, got {method!r}")
    return ALLOCATIONS[method](layers, budget)


def threshold_ranks(layers: Mapping[str, RankCosts], budget: float) -> Ranks:
    """Return the ranks of the lowest price per size that the budget can pay."""
    return _chosen(layers, lambda costs, sizes: threshold(costs, sizes, budget)[0])


def welore_ranks(spectra: Mapping[str, Tensor], reduction: float) -> dict[str, int]:
    """Return the ranks of the lowest common threshold that removes a share of all ranks.

    Ranks are the numbers of scaled singular values (σ - min σ) / (max σ - min σ) that reach the
    threshold, so the scale of a layer does not matter. Equal singular values are never dropped.

    Args:
        spectra: Singular values (..., K) by name.
        reduction: Σ (K - r) / Σ K over all layers, in [0, 1); counted in ranks, not in parameters.

    Raises:
        ValueError: a share out of range, or one that no threshold reaches.
    """
    if not 0.0 <= reduction < 1.0:
        raise ValueError(f"reduction must be a share of the ranks in [0, 1), got {reduction}")
    scaled = {name: normalised_spectrum(values) for name, values in spectra.items()}
    full = {name: values.shape[-1] for name, values in scaled.items()}

    def ranks(cut: float) -> dict[str, int]:
        return {name: _at_least(values, cut) for name, values in scaled.items()}

    cuts = sorted({cut for values in scaled.values() for cut in values.flatten().tolist()})
    index = _first(cuts, lambda cut: rank_reduction(ranks(cut), full) >= reduction)
    if index == len(cuts):
        most = rank_reduction(ranks(cuts[-1]), full)
        raise ValueError(f"reduction={reduction} is above {most:.3f}, that of one rank a layer")
    return ranks(cuts[index])


def rank_reduction(ranks: Mapping[str, int], full: Mapping[str, int]) -> float:
    """Return the share of all ranks that is gone, Σ (K - r) / Σ K."""
    return 1.0 - sum(ranks.values()) / sum(full[name] for name in ranks)


def _dp(layers: Mapping[str, RankCosts], budget: float) -> Ranks:
    return _chosen(layers, lambda costs, sizes: allocate(costs, sizes, budget))


def _chosen(
    layers: Mapping[str, RankCosts],
    choose: Callable[[list[list[float]], list[list[float]]], list[int]],
) -> Ranks:
    tables = [layer.candidates() for layer in layers.values()]
    chosen = choose([costs for _, costs, _ in tables], [sizes for _, _, sizes in tables])
    return {name: tables[i][0][c] for i, (name, c) in enumerate(zip(layers, chosen, strict=True))}


def _uniform(layers: Mapping[str, RankCosts], budget: float) -> Ranks:
    shares = {r / layer.full_rank for layer in layers.values() for r in range(layer.full_rank + 1)}
    # The largest r with r / K ≤ share, compared as the shares were made.
    ranks = {
        name: torch.arange(1, layer.full_rank + 1).double() / layer.full_rank
        for name, layer in layers.items()
    }
    return _most_generous(
        layers, budget, sorted(shares), lambda name, share: int((ranks[name] <= share).sum())
    )


def _energy(layers: Mapping[str, RankCosts], budget: float) -> Ranks:
    tails = {name: tail_energy(layer.singular_values) for name, layer in layers.items()}
    lost = {name: tail / tail[0] if tail[0] > 0 else tail for name, tail in tails.items()}
    shares = sorted({s for tail in lost.values() for s in tail.tolist()}, reverse=True)
    return _most_generous(
        layers, budget, shares, lambda name, share: int((lost[name] > share).sum())
    )


def _welore(layers: Mapping[str, RankCosts], budget: float) -> Ranks:
    scaled = {name: normalised_spectrum(layer.singular_values) for name, layer in layers.items()}
    cuts = sorted({cut for z in scaled.values() for cut in z.flatten().tolist()}, reverse=True)
    return _most_generous(layers, budget, cuts, lambda name, cut: _at_least(scaled[name], cut))


ALLOCATIONS: dict[str, Callable[[Mapping[str, RankCosts], float], Ranks]] = {
    "dp": _dp,
    "threshold": threshold_ranks,
    "energy": _energy,
    "uniform": _uniform,
    "welore": _welore,
}


def _most_generous(
    layers: Mapping[str, RankCosts],
    budget: float,
    settings: list[float],
    rank: Callable[[str, float], int],
) -> Ranks:
    """Return the ranks of the last setting that fits; ranks grow along the settings."""

    def ranks(setting: float) -> Ranks:
        return {name: layer.economic(rank(name, setting)) for name, layer in layers.items()}

    def size(setting: float) -> float:
        found = ranks(setting)
        return sum(layer.size(found[name]) for name, layer in layers.items())

    index = _first(settings, lambda setting: size(setting) > budget)
    if index == 0:
        raise ValueError(
            f"budget={budget:g} is below the size {size(settings[0]):g} of the smallest choice"
        )
    return ranks(settings[index - 1])


def _first(settings: list[float], holds: Callable[[float], bool]) -> int:
    """Return the index of the first setting for which something holds that then goes on holding."""
    low, high = 0, len(settings)
    while low < high:
        middle = (low + high) // 2
        if holds(settings[middle]):
            high = middle
        else:
            low = middle + 1
    return low


def _at_least(values: Tensor, cut: float) -> int:
    return int((values >= cut).sum(-1).amax())
