"""Budgets over layers: the exact optimum, the relaxed one, and the published rules for ranks."""

import itertools
import random

import pytest
import torch
from archzoo.layers.lowrank.maths.allocate import allocate, threshold
from archzoo.layers.lowrank.maths.rank_budget import (
    ALLOCATIONS,
    RankCosts,
    allocate_ranks,
    rank_reduction,
    threshold_ranks,
    welore_ranks,
)
from archzoo.layers.lowrank.weights.unfolding import Unfolding

SHAPES = {"a": (16, 3, 3, 3), "b": (16, 16, 3, 3), "c": (32, 16, 3, 3), "d": (32, 32, 1, 1)}


def tables(seed: int) -> tuple[list[list[float]], list[list[float]], float]:
    """Return costs, sizes and a budget for up to five layers of up to five candidates."""
    draw = random.Random(seed)
    layers = [draw.randint(1, 5) for _ in range(draw.randint(1, 5))]
    whole = seed % 2
    costs = [[draw.randint(0, 9) if whole else draw.random() for _ in range(n)] for n in layers]
    sizes = [[draw.randint(0, 9) if whole else draw.random() for _ in range(n)] for n in layers]
    least, most = (sum(f(row) for row in sizes) for f in (min, max))
    return costs, sizes, draw.uniform(least, most)


def total(table: list[list[float]], chosen: tuple[int, ...] | list[int]) -> float:
    return sum(row[c] for row, c in zip(table, chosen, strict=True))


def best(costs: list[list[float]], sizes: list[list[float]], budget: float) -> float:
    """Return the least cost of all choices."""
    choices = itertools.product(*(range(len(row)) for row in costs))
    return min(total(costs, c) for c in choices if total(sizes, c) <= budget)


def layers(scale: float = 1.0) -> dict[str, RankCosts]:
    """Return the layers of a small network with spectra that fall at different speeds."""
    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        unfolding = Unfolding("channel", shape)
        generator = torch.Generator().manual_seed(i)
        values = torch.rand(unfolding.max_rank, generator=generator, dtype=torch.float64)
        values = scale * values.sort(descending=True).values * (i + 1) ** 0.5
        found[name] = RankCosts(
            values, unfolding.parameters(1), torch.Size(shape).numel(), weight=1 + i / 10
        )
    return found


DENSE = sum(torch.Size(shape).numel() for shape in SHAPES.values())
BUDGETS = [0.1, 0.3, 0.6, 1.0]


def test_the_choice_is_that_of_brute_force():
    for seed in range(200):
        costs, sizes, budget = tables(seed)
        chosen = allocate(costs, sizes, budget)
        assert total(sizes, chosen) <= budget * (1 + 1e-12)
        least = best(costs, sizes, budget)
        assert total(costs, chosen) == pytest.approx(least, rel=1e-12, abs=1e-15)


def test_the_relaxed_choice_is_the_best_at_its_own_size():
    for seed in range(200):
        costs, sizes, budget = tables(seed)
        chosen, price = threshold(costs, sizes, budget)
        spent, cost = total(sizes, chosen), total(costs, chosen)
        assert spent <= budget * (1 + 1e-12)
        assert cost == pytest.approx(best(costs, sizes, spent * (1 + 1e-12)), rel=1e-9, abs=1e-12)
        # A price of zero means that everything that saves was affordable.
        assert price > 0 or cost == pytest.approx(sum(min(row) for row in costs), rel=1e-12)


def test_of_equal_costs_the_smaller_size_is_chosen():
    assert allocate([[1.0, 1.0, 1.0], [2.0, 2.0]], [[3, 1, 2], [5, 4]], 100) == [1, 1]


def test_many_layers_with_many_candidates_are_no_burden():
    generator = torch.Generator().manual_seed(0)
    sizes = [[r * (64 + 9 * 64) for r in range(1, 57)] for _ in range(40)]
    spectra = torch.rand(40, 57, generator=generator, dtype=torch.float64).sort(descending=True)
    tails = spectra.values.square().flip(1).cumsum(1).flip(1)[:, 1:]
    budget = sum(row[-1] for row in sizes) // 3 + 17
    chosen = allocate(tails.tolist(), sizes, budget)
    relaxed, price = threshold(tails.tolist(), sizes, budget)
    gap = total(tails.tolist(), relaxed) - total(tails.tolist(), chosen)
    # Duality: the unspent budget, at the price, bounds what the relaxed choice gives away.
    assert 0 <= gap <= price * (budget - total(sizes, relaxed)) + 1e-9


@pytest.mark.parametrize("method", ALLOCATIONS)
@pytest.mark.parametrize("share", BUDGETS)
def test_no_budget_is_exceeded_and_no_factors_are_larger_than_the_weight(method, share):
    network = layers()
    ranks = allocate_ranks(network, share * DENSE, method)
    assert list(ranks) == list(network)
    assert sum(network[name].size(rank) for name, rank in ranks.items()) <= share * DENSE
    for name, rank in ranks.items():
        if rank is not None:
            unfolding = Unfolding("channel", SHAPES[name])
            assert 1 <= rank < unfolding.break_even
            assert unfolding.parameters(rank) < network[name].dense_size
    if share == 1.0:
        assert set(ranks.values()) == {None}


def error(network: dict[str, RankCosts], ranks: dict[str, int | None]) -> float:
    found = 0.0
    for name, rank in ranks.items():
        if rank is not None:
            tail = network[name].singular_values[rank:].square().sum()
            found += network[name].weight * float(tail)
    return found


@pytest.mark.parametrize("method", ALLOCATIONS)
def test_a_larger_budget_never_costs_accuracy(method):
    network = layers()
    found = [allocate_ranks(network, share * DENSE, method) for share in BUDGETS]
    errors = [error(network, ranks) for ranks in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0.0 < errors[-2]


@pytest.mark.parametrize("share", BUDGETS)
def test_no_rule_has_less_error_than_the_optimum(share):
    network = layers()
    least = error(network, allocate_ranks(network, share * DENSE, "dp"))
    for method in ALLOCATIONS:
        assert error(network, allocate_ranks(network, share * DENSE, method)) >= least - 1e-12


def test_a_price_keeps_the_components_that_save_more():
    network = {name: RankCosts(c.singular_values, c.size_per_rank, 1e9, c.weight)
               for name, c in layers().items()}  # fmt: skip
    ranks = threshold_ranks(network, 0.3 * DENSE)
    saved = {n: c.weight * c.singular_values.square() / c.size_per_rank for n, c in network.items()}
    kept = min(float(saved[n][rank - 1]) for n, rank in ranks.items() if rank > 1)
    for name, rank in ranks.items():
        assert rank is not None and (rank < 2 or float(saved[name][rank - 1]) >= kept)
    lost = [float(saved[n][r]) for n, r in ranks.items() if r < len(saved[n])]
    assert max(lost) <= kept * (1 + 1e-12)


def test_uniform_ranks_are_one_share_and_equal_energies_lose_one_share():
    network = layers()
    shares = [
        1.0 if rank is None else rank / network[name].full_rank
        for name, rank in allocate_ranks(network, 0.4 * DENSE, "uniform").items()
    ]
    step = max(1 / layer.full_rank for layer in network.values())
    assert max(shares) - min(shares) <= step
    ranks = allocate_ranks(network, 0.5 * DENSE, "energy")
    lost = {n: network[n].singular_values[r:].square().sum() for n, r in ranks.items() if r}
    lost = {n: float(v / network[n].singular_values.square().sum()) for n, v in lost.items()}
    level = max(lost.values())
    for name, rank in ranks.items():
        if rank is not None and rank > 1:  # one component less would lose more than the level
            values = network[name].singular_values
            assert float(values[rank - 1 :].square().sum() / values.square().sum()) > level


class TestWeLore:
    @staticmethod
    def spectra() -> dict[str, torch.Tensor]:
        return {name: layer.singular_values for name, layer in layers().items()}

    @pytest.mark.parametrize("reduction", [0.0, 0.1, 0.3, 0.5, 0.7])
    def test_the_lowest_threshold_that_removes_the_share_of_ranks(self, reduction):
        spectra = self.spectra()
        full = {name: len(values) for name, values in spectra.items()}
        ranks = welore_ranks(spectra, reduction)
        assert rank_reduction(ranks, full) >= reduction
        scaled = {n: (v - v.min()) / (v.max() - v.min()) for n, v in spectra.items()}
        # The largest value that was dropped is the threshold before; it must not be enough.
        lost = [float(z[r]) for (n, z), r in zip(scaled.items(), ranks.values(), strict=True)
                if r < full[n]]  # fmt: skip
        if lost:
            before = {n: int((z >= max(lost)).sum()) for n, z in scaled.items()}
            assert rank_reduction(before, full) < reduction
        else:
            assert reduction == 0.0

    def test_scales_and_offsets_of_layers_do_not_matter(self):
        spectra = self.spectra()
        other = {n: (i + 1) * v + i for i, (n, v) in enumerate(spectra.items())}
        assert welore_ranks(spectra, 0.45) == welore_ranks(other, 0.45)

    def test_more_reduction_takes_ranks_from_every_layer_or_none(self):
        found = [welore_ranks(self.spectra(), r / 20) for r in range(15)]
        for less, more in itertools.pairwise(found):
            assert all(more[name] <= less[name] for name in less)

    def test_equal_singular_values_are_never_dropped(self):
        spectra = {"flat": torch.ones(4), "falling": torch.arange(4, 0, -1)}
        assert welore_ranks(spectra, 0.3) == {"flat": 4, "falling": 1}
        with pytest.raises(ValueError, match="reduction=0.5 is above 0.375"):
            welore_ranks(spectra, 0.5)


def test_a_batch_of_matrices_has_one_rank_and_the_sum_of_their_errors():
    values = torch.tensor([[3.0, 2.0, 1.0], [4.0, 1.0, 0.5]], dtype=torch.float64)
    ranks, costs, sizes = RankCosts(values, 2 * 10, 2 * 25).candidates()
    assert ranks == [1, 2, None]
    assert costs == [pytest.approx(6.25), pytest.approx(1.25), 0.0]
    assert sizes == [20, 40, 50]


BAD = {
    "candidates, at least one a layer": lambda: allocate([[1.0]], [[1.0, 2.0]], 3),
    "costs must be finite": lambda: allocate([[float("nan")]], [[1.0]], 3),
    "budget=1 is below the size 3 of the smallest choice": lambda: allocate(
        [[1.0], [1.0]], [[1], [2]], 1
    ),
    "method must be one of .*, got 'best'": lambda: allocate_ranks(layers(), 100, "best"),
    "below the size": lambda: allocate_ranks(layers(), 1, "uniform"),
    r"reduction must be a share of the ranks in \[0, 1\), got 1.0": lambda: welore_ranks(
        {"a": torch.ones(3)}, 1.0
    ),
    "size_per_rank and dense_size must be above 0": lambda: RankCosts(torch.ones(3), 0, 9),
    "singular_values holds NaN": lambda: RankCosts(torch.full((3,), torch.nan), 1, 9),
}


@pytest.mark.parametrize(("message", "call"), BAD.items())
def test_bad_arguments_are_refused_by_name(message, call):
    with pytest.raises(ValueError, match=message):
        call()
