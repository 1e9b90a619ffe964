"""Samplers of ordered dropout: what one pass serves, frequencies, and what a draw follows from."""

from collections import Counter
from collections.abc import Callable, Iterator
from zlib import crc32

import pytest
import torch
from archzoo.layers.lowrank.maths.ordered_dropout import SAMPLERS, pair_at

RANKS = {"a": 2, "b": 5, "dead": 0, "c": 3}


def generators(seed: int, step: int) -> Callable[[str], torch.Generator]:
    """What a controller gives: a generator that follows from seed, name and step."""
    return lambda name: torch.Generator().manual_seed(crc32(f"{seed}/{name}/{step}".encode()))


def draws(sampler: str, ranks: dict[str, int], seed: int = 0) -> Iterator[dict[str, int]]:
    state: dict[str, int] = {}
    step = 0
    while True:
        yield SAMPLERS[sampler](ranks, state, generators(seed, step))
        step += 1


def take(source: Iterator[dict[str, int]], count: int) -> list[dict[str, int]]:
    return [next(source) for _ in range(count)]


def test_a_pass_serves_every_pair_of_layer_and_prefix_once():
    source = draws("pairs", RANKS)
    passes = [[tuple(d.items()) for d in take(source, 10)] for _ in range(3)]
    every = [((name, b),) for name, rank in RANKS.items() for b in range(1, rank + 1)]
    assert all(sorted(one) == sorted(every) for one in passes)
    assert passes[0] != passes[1] != passes[2]  # shuffled anew; equal by chance once in 10!


def test_layers_are_served_in_proportion_to_their_ranks():
    lenet = {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84, "fc3": 10}
    served = Counter(name for d in take(draws("pairs", lenet), 2 * 236) for name in d)
    assert served == {name: 2 * rank for name, rank in lenet.items()}


def test_uniform_takes_one_layer_a_step_all_alike():
    found = take(draws("uniform", RANKS), 1200)
    layers = Counter(name for d in found for name in d)
    assert all(len(d) == 1 for d in found)
    assert set(layers) == {"a", "b", "c"}
    # A binomial of 1,200 and 1/3 has standard deviation 16.3.
    assert all(abs(count - 400) < 5 * 16.3 for count in layers.values())
    widths = Counter(d["b"] for d in found if "b" in d)
    assert set(widths) == {1, 2, 3, 4, 5}


def test_independent_draws_for_every_layer_that_has_a_rank():
    found = take(draws("independent", RANKS), 600)
    assert all(set(d) == {"a", "b", "c"} for d in found)
    widths = Counter(d["b"] for d in found)
    # A binomial of 600 and 1/5 has standard deviation 9.8.
    assert all(abs(widths[b] - 120) < 5 * 9.8 for b in range(1, 6))
    together = Counter((d["a"], d["c"]) for d in found)
    assert len(together) == 6  # every combination occurs


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_follow_from_the_seed_alone(sampler):
    first, again, other = (take(draws(sampler, RANKS, seed), 30) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_copy_of_the_state_goes_on_as_the_original(sampler):
    state: dict[str, int] = {}
    for step in range(13):
        SAMPLERS[sampler](RANKS, state, generators(0, step))
    copy = dict(state)
    assert all(type(value) is int for value in copy.values())
    for step in range(13, 40):
        here, there = (SAMPLERS[sampler](RANKS, s, generators(0, step)) for s in (state, copy))
        assert here == there


def test_the_list_is_made_anew_when_ranks_have_shrunk():
    state: dict[str, int] = {}
    for step in range(4):
        SAMPLERS["pairs"](RANKS, state, generators(0, step))
    cut = RANKS | {"b": 1}
    served = [SAMPLERS["pairs"](cut, state, generators(0, step)) for step in range(4, 10)]
    assert sorted(tuple(d.items()) for d in served) == sorted(
        ((name, b),) for name, rank in cut.items() for b in range(1, rank + 1)
    )
    assert (state["pairs"], state["position"], state["passes"]) == (6, 5, 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_is_drawn_where_no_rank_is_left(sampler):
    assert SAMPLERS[sampler]({"a": 0}, {}, generators(0, 0)) == {}


@pytest.mark.parametrize(("rank", "width"), [(25, 7), (29, 15), (41, 14)])
def test_a_width_is_a_whole_number_that_no_rounding_moves(rank, width):
    served = [d["a"] for d in take(draws("pairs", {"a": rank}), rank)]
    assert sorted(served) == list(range(1, rank + 1)) and width in served
    assert pair_at({"a": rank}, width - 1) == ("a", width)


def test_a_place_outside_the_list_is_refused():
    with pytest.raises(ValueError, match=r"index must lie in \[0, 10\), got 10"):
        pair_at(RANKS, 10)
