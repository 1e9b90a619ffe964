"""Certified bounds beside exact constants, and beside the optimum of the matrix inequality.

    python benchmarks/certify_exact.py --quick
    python benchmarks/certify_exact.py --check

Random small networks of the tests' grammar, linear on either side of zero in each function; one
process, one thread:

    exact    the constant over all linear pieces of a network: no bound may be below it
    solver   the bound over the least that diagonal multipliers can prove for the whole network,
             found by Clarabel (`pip install -e ".[sdp]"`; without it the part is left out and its
             bars are missing)
"""

import copy
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from archzoo.zoo.certify.bounds import Bounds
from archzoo.zoo.certify.bounds.dense import dense_segment
from archzoo.zoo.certify.graph import Graph
from archzoo.zoo.certify.recording import graph_of
from harness import Bar, Measurement, main
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.layers.lipschitz.proof.semidefinite import solver_lipschitz  # noqa: E402
from tests.zoo.certify.exact_constant import bends, exact_lipschitz  # noqa: E402
from tests.zoo.certify.random_networks import BentGrammar  # noqa: E402

MOST = 12  # functions of a network whose pieces are counted out
ROUNDING = 1 + 1e-9  # of a Jacobian in float64
GAP = 1.001  # of a bound over the solver's optimum


def networks(count: int) -> Iterator[tuple[int, nn.Module, Graph]]:
    """Networks that hold a function, with their number of functions."""
    for seed in range(count):
        model, shape = BentGrammar(seed).network()
        graph = graph_of(model, torch.zeros(2, *shape))
        functions = bends(graph)
        if functions:
            yield functions, model, graph


def row(part: str, case: str, ratios: list[float], seconds: float, notes: str) -> dict[str, Any]:
    """One line of the table."""
    return {
        "part": part, "case": case, "figure": statistics.median(ratios), "unit": "ratio, median",
        "seconds": round(seconds, 1),
        "notes": f"{len(ratios)} networks, worst {max(ratios):.6g}, {notes}",
    }  # fmt: skip


def exact(quick: bool) -> Measurement:
    """Compare bounds with exact constants."""
    ratios, below, seconds = [], 0, 0.0
    for functions, model, graph in networks(60 if quick else 600):
        if functions > MOST:
            continue
        started = time.perf_counter()
        true = exact_lipschitz(copy.deepcopy(model).double(), graph)
        seconds += time.perf_counter() - started
        bound = Bounds(graph).lipschitz()
        below += bound * ROUNDING < true
        if true > 1e-12 * bound:
            ratios.append(bound / true)
    case = f"bound over exact constant, at most {MOST} functions"
    rows = [row("exact", case, ratios, seconds, "seconds are those of the exact constants")]
    return rows, [Bar("bounds below the exact constant", below, 0)]


def solver(quick: bool) -> Measurement:
    """Compare bounds with the solver's optimum."""
    try:
        import clarabel  # noqa: F401
        import cvxpy
    except ImportError:
        return [], []
    ratios, ours, theirs = [], 0.0, 0.0
    for _, _, graph in networks(60 if quick else 600):
        bounds = Bounds(graph)
        segment = dense_segment(bounds.simple, 0, bounds.simple.output)
        if not segment.signals:  # the function is not read
            continue
        started = time.perf_counter()
        bound = bounds.lipschitz()
        ours += time.perf_counter() - started
        started = time.perf_counter()
        optimum = solver_lipschitz(cvxpy, segment.block())
        theirs += time.perf_counter() - started
        ratios.append(bound / optimum)
    notes = f"{ours:.1f} s for the bounds and {theirs:.1f} s for the optima"
    rows = [row("solver", "bound over the solver's optimum", ratios, ours + theirs, notes)]
    return rows, [
        Bar("bound over the solver's optimum, median", statistics.median(ratios), GAP),
        Bar("bound over the solver's optimum, worst", max(ratios), GAP),
    ]


def measure(quick: bool) -> Measurement:
    """Run both parts."""
    torch.set_num_threads(1)
    parts = exact(quick)[:2], solver(quick)[:2]
    return [*parts[0][0], *parts[1][0]], [*parts[0][1], *parts[1][1]]


if __name__ == "__main__":
    main("certify_exact", measure)
