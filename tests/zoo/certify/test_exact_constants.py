"""Bounds beside exact constants, of all linear pieces, and beside the inequality's optimum."""

import copy
import math

import pytest
import torch
from archzoo.zoo.certify.bounds import Bounds
from archzoo.zoo.certify.bounds.dense import dense_segment
from archzoo.zoo.certify.graph import Graph
from archzoo.zoo.certify.recording import graph_of
from torch import Tensor, nn

from ...layers.lipschitz.proof.semidefinite import solver_lipschitz
from ...tiers import tiered
from .exact_constant import bends, cells, exact_lipschitz
from .random_networks import BentGrammar, steepest

FAST, SLOW, CHUNK = 50, 2000, 100
FEW, MOST = 6, 14  # functions of a network: in the usual suite, and in the slow one


def network(seed: int) -> tuple[nn.Module, Graph]:
    model, shape = BentGrammar(seed).network()
    return model, graph_of(model, torch.zeros(2, *shape))


def check(seeds: range, most: int) -> None:
    """The bound of every network is at least its exact constant, which no point exceeds."""
    checked = 0
    for seed in seeds:
        model, graph = network(seed)
        if (bends(graph) or math.inf) > most:
            continue
        wide = copy.deepcopy(model).double()
        exact = exact_lipschitz(wide, graph)
        assert steepest(wide, graph.input_shape, seed) <= exact * (1 + 1e-9)
        assert exact <= Bounds(graph).lipschitz() * (1 + 1e-12)
        checked += 1
    assert checked >= len(seeds) / 8


@pytest.mark.long
def test_no_bound_is_below_the_exact_constant():
    check(range(FAST), FEW)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, SLOW, CHUNK))
def test_no_bound_of_thousands_is_below_the_exact_constant(start):
    check(range(start, start + CHUNK), MOST)


class Hat(nn.Module):
    """relu(x) − 2 relu(x − 1) + relu(x − 2), summed: rises and falls with slope 1."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.relu() - 2 * (x - 1).relu() + (x - 2).relu()).sum(1, keepdim=True)


def test_the_walk_finds_every_cell_and_no_cell_that_is_empty():
    graph = graph_of(Hat(), torch.zeros(2, 2))
    assert len(cells(graph)) == 16  # four intervals on each of two axes, of 64 patterns
    assert exact_lipschitz(Hat().double(), graph) == pytest.approx(math.sqrt(2))
    # n planes in general position cut space of d dimensions into Σ_k≤d C(n, k) cells.
    torch.manual_seed(0)
    planes = graph_of(nn.Sequential(nn.Linear(3, 7), nn.ReLU()), torch.zeros(2, 3))
    assert len(cells(planes)) == 1 + 7 + 21 + 35


@pytest.mark.parametrize("seed", tiered(range(200), range(3, 200, 40)))
def test_a_bound_is_within_a_thousandth_of_the_optimum_of_the_whole_inequality(seed):
    pytest.importorskip("clarabel")
    cvxpy = pytest.importorskip("cvxpy")
    bounds = Bounds(network(seed)[1])
    segment = dense_segment(bounds.simple, 0, bounds.simple.output)
    found = bounds.lipschitz()
    assert found <= 1.001 * solver_lipschitz(cvxpy, segment.block()) + 1e-12
