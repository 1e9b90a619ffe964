"""Residuals side by side on a byte-level GPT: bits per byte, parameters, step time and memory.

Every mechanism trains the same backbone on the same bytes (`experiment=residual_bytes_gpt`). Its
learning rate is the best at seed 0 of a grid of factors of two, which goes on where its edge is the
best; two more seeds run at that rate. An order is claimed only where two means differ by more than
two standard errors of their difference.

A run is a call of `archzoo train`, and its result is appended to `results/residual_runs.csv` when
it ends. What stands there is not run again, so an interrupted comparison goes on where it was.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.saved_bytes import saved_bytes
from archzoo.zoo import create_model
from harness import RESULTS, Bar, Measurement, interleaved, main, median_ratio
from spread import summary, verdict
from torch import nn

RUNS = RESULTS / "residual_runs.csv"
RESIDUALS = (
    "add",
    "scaled",
    "block_attnres",
    "attnres",
    "delta",
    "delta_cc",
    "denseformer",
    "hyper_connections",
    "mhc_lite",
    "parallel",
    "embedding_skip",
    "orthogonal",
    "value_residual",
    "lime",
)
RATES = (0.001, 0.002, 0.004)
SEEDS = (0, 1, 2)
FIELDS = ("residual", "lr", "seed", "validation", "test")
SHAPE = {"width": 96, "depth": 6, "num_heads": 3, "context_length": 128}


def recorded() -> dict[tuple[str, float, int], float]:
    """Read the validation bits per byte of every run that has ended."""
    if not RUNS.exists():
        return {}
    with RUNS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(r["residual"], float(r["lr"]), int(r["seed"])): float(r["validation"]) for r in rows}


def run(residual: str, lr: float, seed: int, *overrides: str) -> dict[str, Any]:
    """Train one point with the command line and return its result."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            *(sys.executable, "-m", "archzoo.train", "experiment=residual_bytes_gpt"),
            *(f"model.residual={residual}", f"optim.lr={lr}", f"seed={seed}"),
            *(f"run_dir={place}/run", "logger=[csv]", *overrides),
        ]
        subprocess.run(command, check=True, cwd=place, stdout=subprocess.DEVNULL)
        return json.loads((Path(place) / "run" / "result.json").read_text())


def validation(residual: str, lr: float, seed: int) -> float:
    """Return a point's bits per byte, from the record or by training it."""
    known = recorded()
    if (residual, lr, seed) not in known:
        result = run(residual, lr, seed)
        bits = {fold: result[fold]["bits_per_byte"] for fold in ("validation", "test")}
        fresh = not RUNS.exists()
        with RUNS.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerow({"residual": residual, "lr": lr, "seed": seed, **bits})
        known = recorded()
        print(f"{residual}, lr {lr}, seed {seed}: {known[residual, lr, seed]:.4f}", flush=True)
    return known[residual, lr, seed]


def best_rate(residual: str) -> float:
    """The best learning rate at seed 0, with worse ones on both sides."""
    tried = list(RATES)
    while True:
        best = min(tried, key=lambda lr: validation(residual, lr, 0))
        if best == tried[0]:
            tried.insert(0, best / 2)
        elif best == tried[-1]:
            tried.append(2 * best)
        else:
            return best


def costs(names: Sequence[str], repetitions: int) -> dict[str, dict[str, float]]:
    """Measure parameters, the training step and the memory for it, on one thread."""
    torch.set_num_threads(1)
    tokens = torch.randint(256, (16, SHAPE["context_length"]))
    models: dict[str, nn.Module] = {}
    for name in names:
        torch.manual_seed(0)
        models[name] = create_model("gpt_tiny", residual=name, **SHAPE)

    def step(model: nn.Module) -> float:
        started = time.perf_counter()
        model(tokens).square().mean().backward()
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    for model in models.values():
        step(model)
    times = interleaved(
        {name: lambda model=model: step(model) for name, model in models.items()}, repetitions
    )
    return {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "step, ms": 1e3 * statistics.median(times[name]),
            "step over add": median_ratio(times[name], times["add"]),
            "kept, MiB": saved_bytes(lambda m=model: m(tokens), (*model.parameters(),)) / 2**20,
        }
        for name, model in models.items()
    }


def measure(quick: bool) -> Measurement:
    """Train every point that is missing and make the table."""
    if quick:
        names, rates = ["add", "block_attnres"], dict.fromkeys(["add", "block_attnres"], 0.004)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            # The project's own sources are a small corpus; the figures are of no interest.
            sources = (Path(__file__).parents[1] / "layers").rglob("*.py")
            text.write("".join(path.read_text() for path in sorted(sources)))
            text.flush()
            short = ("trainer.steps=10", "trainer.evaluate_every=10", f"data.path={text.name}")
            bits = {n: [run(n, 0.004, 0, *short)["validation"]["bits_per_byte"]] for n in names}
    else:
        names, bits, rates = RESIDUALS, {}, {}
        for name in names:
            rates[name] = best_rate(name)
            bits[name] = [validation(name, rates[name], seed) for seed in SEEDS]
    measured = costs(names, 3 if quick else 9)
    rows = []
    for name in names:
        mean, error = summary(bits[name])
        rows.append(
            {
                "residual": name,
                "bits/byte": round(mean, 4),
                "standard error": round(error, 4),
                "against add": verdict(bits[name], bits["add"]),
                "lr": rates[name],
                **measured[name],
            }
        )
    return rows, bars(bits)


def bars(bits: dict[str, list[float]]) -> list[Bar]:
    """Check only that training worked: an order of the mechanisms is a result, not a bar."""
    return [Bar(f"{name}, bits/byte below a uniform byte", max(b), 8.0) for name, b in bits.items()]


if __name__ == "__main__":
    main("residual_bytes_gpt", measure)
