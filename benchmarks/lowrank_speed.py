"""What a training step with factored weights costs over the dense one, at width 512.

The network is four linear layers of 512 to 512 values, each followed by a ReLU; a step is forward,
mean squared loss, backward and an optimiser's step, at 256 and at 2,048 rows. Process time of one
thread, interleaved; ratios are medians of pairwise ratios to the dense step.

Memory of SLTrain is that of 16 and of 64 such layers with AdamW. Counted are the distinct storages
of parameters, gradients, both moments, indices, and what autograd keeps; the peak is the growth of
a fresh process over four steps. For L layers of n to n values and T rows they are

    dense      4 L (n² + n) + T n (L + 2)
    SLTrain    4 L (2 r n + k + n) + L k + T n (L + 2),      k = int(δ n²) entries of the support

numbers of 4 bytes: each layer keeps its input, which is what the ReLU before it keeps too, and the
loss its input and its target. What exists for a moment, in the backward pass of one layer or in the
optimiser, comes on top in the peak, and is the same for any number of layers.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.lowrank import Maestro, Method, SLTrain, reparametrize
from archzoo.layers.saved_bytes import saved_bytes
from harness import Bar, Measurement, interleaved, main, median_ratio
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, DEPTH, RANK = 512, 4, 128
BATCHES = (256, 2048)
DENSITY, MEMORY_DEPTHS = 0.03, (16, 64)


def network(depth: int = DEPTH, width: int = WIDTH) -> nn.Sequential:
    """Make the dense network."""
    torch.manual_seed(0)
    layers = [(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*(module for pair in layers for module in pair))


def training(
    rows: int, method: Method | None = None, rank: int | None = None, *, adamw: bool = False
) -> Callable[[], None]:
    """Return a function that takes one step; a method has all its weights cut to a rank first.

    The optimiser is SGD with momentum, or AdamW.

    The step of a method is whole: its penalty, and its events around the optimiser's step.
    """
    model, penalty = network(), None
    controller = None if method is None else reparametrize(model, method, ["*"])
    # So small a rate that the weights, and with them the work, stay as they are.
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), lr=1e-6)
        if adamw
        else torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    )
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


def memory(sltrain: bool, rows: int, depth: int) -> tuple[int, int]:
    """Take four steps with AdamW; return the bytes that are counted, and the growth of the peak."""
    steps(sltrain, rows, 1, WIDTH)  # loads the libraries, and the kernels of these sizes
    before = resident("VmRSS")
    model, optimizer, forward = steps(sltrain, rows, depth, WIDTH)
    grown = resident("VmHWM") - before
    held = [*model.parameters(), *(b for b in model.buffers() if b.dim())]
    held += [p.grad for p in model.parameters() if p.grad is not None]
    held += [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    kept = saved_bytes(forward, (*model.parameters(), *model.buffers()))
    return sum(t.untyped_storage().nbytes() for t in held) + kept, grown


def steps(
    sltrain: bool, rows: int, depth: int, width: int
) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], Tensor]]:
    """Take four steps; return the network, the optimiser, and what computes the loss."""
    model = network(depth, width)
    if sltrain:
        reparametrize(model, SLTrain(rank=width * RANK // WIDTH, density=DENSITY), ["*"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    x, y = (torch.randn(rows, width) for _ in range(2))
    for _ in range(4):
        # Gradients stay, so that all that is counted exists at once when the backward pass begins.
        optimizer.zero_grad(set_to_none=False)
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return model, optimizer, lambda: F.mse_loss(model(x), y)


def resident(what: str) -> int:
    """Return the present memory of this process (VmRSS) or its largest so far (VmHWM), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return 1024 * int(value.split()[0])
    raise OSError(f"/proc/self/status has no {what}")


def formula(sltrain: bool, rows: int, depth: int) -> int:
    """Return the bytes that the formula above gives."""
    k = int(DENSITY * WIDTH**2)
    numbers = 4 * (2 * RANK * WIDTH + k) + k if sltrain else 4 * WIDTH**2
    activations = rows * WIDTH * (depth + 2)
    return 4 * (depth * (numbers + 4 * WIDTH) + activations)


def in_process(sltrain: bool, rows: int, depth: int) -> tuple[int, int]:
    """Return `memory` of a process that does nothing else and keeps no tensor that was freed."""
    code = (
        f"import torch; torch.set_num_threads(1)\n"
        f"from lowrank_speed import memory; print(*memory({sltrain}, {rows}, {depth}))"
    )
    place = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384"},
        check=True,
        capture_output=True,
        text=True,
    )
    counted, grown = map(int, done.stdout.split())
    return counted, grown


def measure_sltrain(quick: bool) -> Measurement:
    """Steps at rank 128 with 3 % of the entries, with AdamW."""
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for batch in BATCHES:
        candidates = {
            "dense, AdamW": training(batch, adamw=True),
            "SLTrain, rank 128": training(batch, SLTrain(rank=RANK, density=DENSITY), adamw=True),
        }
        repeats = max(1, 2048 // batch)
        found, ratios = compare(f"SLTrain, batch {batch}", candidates, repeats, 5 if quick else 41)
        rows += found
        ratio = ratios["SLTrain, rank 128"]
        bars.append(Bar(f"SLTrain, rank 128, over dense, batch {batch}", ratio, 1.5))
    return rows, bars


def measure_memory(quick: bool) -> Measurement:
    """Memory of SLTrain at rank 128 with 3 % of the entries, counted and in a process."""
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    names = {False: "dense, AdamW", True: "SLTrain, rank 128"}
    for depth, batch in itertools.product(MEMORY_DEPTHS[: 1 if quick else None], BATCHES):
        case = f"{depth} layers, batch {batch}"
        measured = {sltrain: in_process(sltrain, batch, depth) for sltrain in names}
        counted, peak = ({k: pair[i] for k, pair in measured.items()} for i in (0, 1))
        expected = {sltrain: formula(sltrain, batch, depth) for sltrain in names}
        for what, sizes in {"formula": expected, "counted": counted, "peak": peak}.items():
            rows += [
                {
                    "part": f"memory, {case}, {what}",
                    "case": name,
                    "MiB": round(sizes[sltrain] / 2**20, 2),
                    "over dense": round(sizes[sltrain] / sizes[False], 3),
                }
                for sltrain, name in names.items()
            ]
        bars += [
            Bar(
                f"counted bytes of {name} off the formula, {case}",
                abs(counted[sltrain] - expected[sltrain]),
                0,
            )
            for sltrain, name in names.items()
        ]
        share = expected[True] / expected[False]
        what = f"peak of SLTrain over dense, by the formula's share {share:.3f}, {case}"
        bars.append(Bar(what, peak[True] / peak[False] / share, 1.05))
    return rows, bars


def measure(quick: bool) -> Measurement:
    """Everything."""
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for part in (measure_maestro, measure_sltrain, measure_memory):
        found, judged = part(quick)
        rows, bars = rows + found, bars + judged
    return rows, bars


if __name__ == "__main__":
    torch.set_num_threads(1)
    main("lowrank_speed", measure)
