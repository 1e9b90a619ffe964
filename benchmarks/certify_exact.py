"""Certified bounds beside exact constants, and beside the optimum of the matrix inequality.

    python benchmarks/certify_exact.py --quick
    python benchmarks/certify_exact.py --check

Random small networks of the tests' grammars; one process, one thread:

    exact    networks whose functions bend at zero, beside the constant over all their linear
             pieces: no bound may be below it
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
from archzoo.zoo.certify.bounds.dense import dense_segment, order
from archzoo.zoo.certify.graph import Graph
from archzoo.zoo.certify.recording import graph_of
from harness import Bar, Measurement, main
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.layers.lipschitz.proof.semidefinite import solver_lipschitz  # noqa: E402
from tests.zoo.certify.exact_constant import bends, exact_lipschitz  # noqa: E402
from tests.zoo.certify.random_networks import BentGrammar, Grammar  # noqa: E402

MOST = 12  # functions of a network whose pieces are counted out
ROUNDING = 1 + 1e-9  # of a Jacobian in float64
GAP = 1.001  # of a bound over the solver's optimum
LARGEST = 60  # order of an inequality that the solver is asked about
CASES = {BentGrammar: "functions that bend at zero", Grammar: "functions and layers of all kinds"}


def networks(kind: type[Grammar], count: int) -> Iterator[tuple[nn.Module, Graph]]:
    """Networks of a grammar, and what is recorded of them."""
    for seed in range(count):
        model, shape = kind(seed).network()
        model = nn.Sequential(model, nn.Flatten()).eval()
        yield model, graph_of(model, torch.zeros(2, *shape))


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
    for model, graph in networks(BentGrammar, 60 if quick else 600):
        if not 0 < (bends(graph) or 0) <= MOST:
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
    rows, bars = [], []
    for kind in (BentGrammar, Grammar):
        ratios, ours, theirs = [], 0.0, 0.0
        for _, graph in networks(kind, 60 if quick else 600):
            bounds = Bounds(graph)
            ends = 0, bounds.simple.output
            if order(bounds.simple, *ends) > LARGEST:
                continue
            segment = dense_segment(bounds.simple, *ends)
            if not segment.signals:  # no function is read
                continue
            started = time.perf_counter()
            bound = bounds.lipschitz()
            ours += time.perf_counter() - started
            started = time.perf_counter()
            optimum = solver_lipschitz(cvxpy, segment.block())
            theirs += time.perf_counter() - started
            ratios.append(bound / optimum)
        notes = f"{ours:.1f} s for the bounds and {theirs:.1f} s for the optima"
        case = f"bound over the solver's optimum, {CASES[kind]}"
        rows.append(row("solver", case, ratios, ours + theirs, notes))
        bars += [
            Bar(f"{case}, median", statistics.median(ratios), GAP),
            Bar(f"{case}, worst", max(ratios), GAP),
        ]
    return rows, bars


def measure(quick: bool) -> Measurement:
    """Run both parts."""
    torch.set_num_threads(1)
    parts = exact(quick)[:2], solver(quick)[:2]
    return [*parts[0][0], *parts[1][0]], [*parts[0][1], *parts[1][1]]


if __name__ == "__main__":
    main("certify_exact", measure)
