"""What a training step with factored weights costs over the dense one, at width 512.

The network is four linear layers of 512 to 512 values, each followed by a ReLU; a step is forward,
mean squared loss, backward and SGD with momentum, at 256 and at 2,048 rows. Process time of one
thread, interleaved; ratios are medians of pairwise ratios to the dense step.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from archzoo.layers.lowrank import Maestro, Method, reparametrize
from harness import Bar, Measurement, interleaved, main, median_ratio
from torch import nn
from torch.nn import functional as F

WIDTH, DEPTH, RANK = 512, 4, 128
BATCHES = (256, 2048)


def network() -> nn.Sequential:
    """Make the dense network."""
    torch.manual_seed(0)
    layers = [(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH)]
    return nn.Sequential(*(module for pair in layers for module in pair))


def training(
    rows: int, method: Method | None = None, rank: int | None = None
) -> Callable[[], None]:
    """Return a function that takes one step; a method has all its weights cut to a rank first.

    The step of a method is whole: its penalty, and its events around the optimiser's step.
    """
    model, penalty = network(), None
    controller = None if method is None else reparametrize(model, method, ["*"])
    # So small a rate that the weights, and with them the work, stay as they are.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    if controller is not None:
        for name in controller.targets if rank is not None else ():
            controller.truncate(name, rank)  # type: ignore[arg-type]
        controller.attach(optimizer)
        penalty = controller.penalty
    x, y = torch.randn(2, rows, WIDTH).unbind()

    def step() -> None:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        added = None if penalty is None else penalty()
        (loss if added is None else loss + added).backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None], steps: int) -> Callable[[], float]:
    """Return a function that returns the process time of a step, as a mean over several."""

    def run() -> float:
        started = time.process_time()
        for _ in range(steps):
            step()
        return (time.process_time() - started) / steps

    return run


def compare(
    part: str, candidates: dict[str, Callable[[], None]], steps: int, repetitions: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Time candidates in turn, the first of them as the base; return rows and ratios by name."""
    for step in candidates.values():
        step()
    found = interleaved({n: timed(step, steps) for n, step in candidates.items()}, repetitions)
    base = found[next(iter(found))]
    ratios = {name: median_ratio(times, base) for name, times in found.items()}
    rows = [
        {
            "part": part,
            "case": name,
            "ms": round(1e3 * statistics.median(times), 3),
            "over dense": round(ratios[name], 3),
        }
        for name, times in found.items()
    ]
    return rows, ratios


def measure_maestro(quick: bool) -> Measurement:
    """Sampled steps at rank 128: one layer at a prefix of 1 to 128, the others at 128.

    Removal of components is looked into every 10 steps, more often than in any run, with a
    threshold that removes nothing. At full rank, where training starts, there is no bar.
    """
    common: dict[str, Any] = {"group_lasso": 1e-6, "threshold": 0.0, "shrink_every": 10}
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for batch in BATCHES:
        candidates = {
            "dense": training(batch),
            "Maestro, rank 128, prox": training(batch, Maestro(**common), RANK),
            "Maestro, rank 128, lasso in the loss": training(
                batch, Maestro(lasso="loss", **common), RANK
            ),
            "rank 128, neither sampled nor penalised": training(
                batch, Maestro(sample=False, group_lasso=0.0, shrink_every=0), RANK
            ),
            "Maestro, full rank 512, prox": training(batch, Maestro(**common)),
        }
        steps = max(1, 2048 // batch)
        found, ratios = compare(f"Maestro, batch {batch}", candidates, steps, 5 if quick else 41)
        rows += found
        bars += [
            Bar(f"{name}, over dense, batch {batch}", ratio, 1.0)
            for name, ratio in ratios.items()
            if name.startswith("Maestro, rank 128")
        ]
    return rows, bars


def measure(quick: bool) -> Measurement:
    """Everything."""
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for part in (measure_maestro,):
        found, judged = part(quick)
        rows, bars = rows + found, bars + judged
    return rows, bars


if __name__ == "__main__":
    torch.set_num_threads(1)
    main("lowrank_speed", measure)
