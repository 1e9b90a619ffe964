"""No point of a random network is steeper than its bound."""

import copy
import math

import pytest
import torch
from archzoo.zoo.certify.bounds import Bounds
from archzoo.zoo.certify.recording import RefusedError, graph_of

from .random_networks import Grammar, steepest

FAST, SLOW, CHUNK = 100, 5000, 250


def ratios(seeds: range) -> tuple[list[float], list[str]]:
    """Steepest Jacobian over bound of each network, and the refusals."""
    found, refused = [], []
    for seed in seeds:
        model, shape = Grammar(seed).network()
        try:
            graph = graph_of(
                model, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
            )
        except RefusedError as error:
            refused.append(f"{seed}: {error.reasons[0]}")
            continue
        bound = Bounds(graph).lipschitz()
        true = steepest(copy.deepcopy(model).double(), shape, seed)
        # A ratio is off by the rounding of a forward and a backward pass.
        found.append(true / (bound * (1 + 1e-9)) if bound else float(true > 1e-12) * math.inf)
    return found, refused


def check(seeds: range) -> None:
    found, refused = ratios(seeds)
    assert all(ratio <= 1.0 for ratio in found)
    assert not refused  # every network of the grammar has a bound


@pytest.mark.long
def test_no_point_is_steeper_than_the_bound():
    check(range(FAST))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(FAST, FAST + SLOW, CHUNK))
def test_no_point_of_thousands_is_steeper_than_the_bound(start):
    check(range(start, start + CHUNK))
