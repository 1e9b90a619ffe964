"""Low-rank pretraining side by side on a byte-level GPT: bits per byte, parameters, memory, time.

Every method trains the same network on the same bytes (`experiment=lowrank_bytes_gpt`), at an
eighth of the width as its rank. The learning rate of what all share, embedding and norms, is the
same; that of the weights a method makes is the best of a grid at seed 0, and the grid is extended
until the best lies inside it. Two more seeds run at that rate. An order is claimed only where two
means differ by more than two standard errors of their difference.

Schedules are scaled to the short run: ReLoRA merges three times, SST draws new vectors 30 times,
SwitchLoRA switches often enough to pass over its pool. ReLoRA has no dense warm start.

Each run is appended to `results/lowrank_bytes_gpt_runs.jsonl` when it ends, and what stands there
is not run again.
"""

import contextlib
import io
import itertools
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.lowrank import memory_report
from archzoo.train.config import run_config
from archzoo.train.run import run
from archzoo.train.schemas import register_schemas
from archzoo.zoo import create_model
from harness import RESULTS, Bar, Measurement, interleaved, main, median_ratio
from hydra import compose, initialize_config_module
from records import Records
from spread import apart, summary, verdict
from torch import nn

RANK, STEPS = 12, 800
METHODS: dict[str, dict[str, Any]] = {
    "full rank": {"name": "full", "rank": RANK},
    "low rank, zero init": {"name": "low_rank", "rank": RANK, "init": "zero"},
    "low rank, spectral init": {"name": "low_rank", "rank": RANK, "init": "spectral"},
    "low rank, refactorised": {
        "name": "low_rank",
        "rank": RANK,
        "init": "spectral",
        "refactorize_every": STEPS // 8,
        "reset_momentum": True,
    },
    "SLTrain": {"name": "sltrain", "rank": RANK, "scale": 0.25, "density": 0.03},
    "LOST, linear": {"name": "lost", "rank": RANK, "activation": None, "density": 0.05},
    "LOST, SiLU": {"name": "lost", "rank": RANK, "activation": "silu", "density": 0.05},
    "CoLA": {"name": "cola", "rank": RANK},
    "frozen LoRA": {"name": "relora", "rank": RANK, "merge_every": 0},
    "ReLoRA": {"name": "relora", "rank": RANK, "merge_every": STEPS // 4, "rewarm": 10},
    "SwitchLoRA": {"name": "switchlora", "rank": RANK, "interval": 10, "decay_share": 0.5},
    "SST": {"name": "sst", "rank": RANK, "resample_every": STEPS // 30, "rewarm": 5},
}
PREDICTED = (
    "papers: full ≤ {LOST, CoLA, SwitchLoRA} ≈ SLTrain < SST at small rank < frozen LoRA < ReLoRA "
    "without warm start < low rank with zero init; tuned surveys: full rank best, low rank with "
    "spectral init modestly behind, sparse or high-rank additions close part of the gap"
)
SHARED_RATE = 0.01
RATES = (0.002, 0.005, 0.01, 0.03)  # of the targets
OUTER = (0.1, 0.3, 0.0006, 0.0002)  # taken up where the best rate is at an end
SEEDS = (0, 1, 2)
SHAPE = {"width": 96, "depth": 2, "num_heads": 4, "context_length": 64}


def train(method: str, rate: float, seed: int, folder: Path, *more: str) -> float:
    """Train a point as the command line does; return the CPU seconds."""
    settings = METHODS[method]
    optimizer = "step_adamw" if settings["name"] == "switchlora" else "adamw"
    given = ["experiment=lowrank_bytes_gpt", f"lowrank={settings['name']}"]
    given += [
        f"lowrank.{key}={'null' if value is None else value}"
        for key, value in settings.items()
        if key != "name"
    ]
    given += [f"lowrank.learning_rate_ratio={rate / SHARED_RATE:g}", f"optim={optimizer}"]
    given += [f"optim.lr={SHARED_RATE}", f"seed={seed}", f"run_dir={folder}", "logger=[csv]"]
    register_schemas()
    with initialize_config_module("archzoo.conf", version_base="1.3"):
        config = run_config(compose("train", overrides=[*given, "trainer.progress=false", *more]))
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        run(config)
    return time.process_time() - began


def point(method: str, rate: float, seed: int, *more: str) -> dict[str, Any]:
    """Train a point; return its bits per byte and CPU seconds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        seconds = train(method, rate, seed, folder, *more)
        ended = json.loads((folder / "result.json").read_text())
    bits = {fold: ended[fold]["bits_per_byte"] for fold in ("validation", "test")}
    return {**bits, "seconds": round(seconds, 1)}


def best_rate(records: Records, method: str) -> tuple[float, dict[float, float]]:
    """Return the best rate at seed 0 and the bits per byte of every rate tried."""
    tried: dict[float, float] = {}
    wanted = list(RATES)
    while True:
        for rate in wanted:
            tried[rate] = result(records, method, rate, 0)["validation"]
        best = min(tried, key=tried.__getitem__)
        ends = {min(tried): sorted(OUTER[2:], reverse=True), max(tried): sorted(OUTER[:2])}
        wanted = [rate for rate in ends.get(best, ()) if rate not in tried][:1]
        if not wanted:
            return best, tried


def result(records: Records, method: str, rate: float, seed: int) -> dict[str, Any]:
    """Return a point, from the record or by training it."""
    key = {"method": method, "settings": METHODS[method], "rate": rate, "seed": seed}
    return records.get(key, lambda: point(method, rate, seed))


def costs(names: list[str], repetitions: int) -> dict[str, dict[str, float]]:
    """Measure a training step of each method on one thread, and count its memory."""
    torch.set_num_threads(1)
    tokens = torch.randint(256, (16, SHAPE["context_length"]))
    models: dict[str, nn.Module] = {}
    for name in names:
        torch.manual_seed(0)
        settings = {"total_steps": STEPS} if METHODS[name]["name"] == "switchlora" else {}
        models[name] = create_model("gpt_nano", lowrank={**METHODS[name], **settings}, **SHAPE)

    def step(model: nn.Module) -> float:
        began = time.perf_counter()
        for _ in range(4):
            model(tokens).square().mean().backward()
            model.zero_grad(set_to_none=True)
        return (time.perf_counter() - began) / 4

    for model in models.values():
        step(model)
    times = interleaved(
        {name: lambda m=model: step(m) for name, model in models.items()}, repetitions
    )
    reference = next(iter(models))
    found = {}
    for name, model in models.items():
        memory = memory_report(model, tokens)
        found[name] = {
            "parameters": memory.parameters,
            "trained": memory.trained,
            "indices": memory.indices,
            "states and gradients, KiB": (
                memory.weight_bytes
                + memory.gradient_bytes
                + memory.optimizer_bytes
                + memory.index_bytes
            )
            / 1024,
            "activations, KiB": (memory.activation_bytes or 0) / 1024,
            "step over full": median_ratio(times[name], times[reference]),
        }
    return found


def measure(quick: bool) -> Measurement:
    """Train every point that is missing and make the table."""
    if quick:
        names = ["full rank", "low rank, spectral init", "SLTrain"]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            # The project's own sources are a small corpus; the figures are of no interest.
            sources = sorted((Path(__file__).parents[1] / "layers").rglob("*.py"))
            text.write("".join(path.read_text() for path in sources))
            text.flush()
            short = ("trainer.steps=10", "trainer.evaluate_every=10", f"data.path={text.name}")
            found = {name: [point(name, 0.005, 0, *short)] for name in names}
        rates, grids = dict.fromkeys(names, 0.005), dict.fromkeys(names, {0.005: math.nan})
    else:
        names, found, rates, grids = list(METHODS), {}, {}, {}
        records = Records(RESULTS / "lowrank_bytes_gpt_runs.jsonl")
        for name in names:
            rates[name], grids[name] = best_rate(records, name)
            found[name] = [result(records, name, rates[name], seed) for seed in SEEDS]
            print(f"{name} is done", flush=True)
    measured = costs(names, 3 if quick else 15)
    rows = []
    bits = {name: [one["validation"] for one in found[name]] for name in names}
    for name in sorted(names, key=lambda name: statistics.mean(bits[name])):
        mean, error = summary(bits[name])
        rows.append(
            {
                "method": name,
                "bits/byte": round(mean, 4),
                "standard error": round(error, 4),
                "seeds": [round(b, 4) for b in bits[name]],
                "against full": verdict(bits[name], bits[names[0]]),
                "rate": rates[name],
                "rates tried": {str(r): round(b, 4) for r, b in sorted(grids[name].items())},
                "rate inside the grid": min(grids[name]) < rates[name] < max(grids[name]),
                "test": round(statistics.mean(one["test"] for one in found[name]), 4),
                **measured[name],
                "seconds": statistics.median(one["seconds"] for one in found[name]),
            }
        )
    return rows, bars(bits), [order([row["method"] for row in rows], bits), PREDICTED]


def order(names: list[str], bits: dict[str, list[float]]) -> str:
    """Write the methods from best to worst, `<` where neighbours are apart and `~` where not."""
    parts = [names[0]]
    for one, other in itertools.pairwise(names):
        parts += ["<" if apart(bits[one], bits[other]) else "~", other]
    return " ".join(parts)


def bars(bits: dict[str, list[float]]) -> list[Bar]:
    """Check that training worked: an order of the methods is a result, not a bar."""
    return [Bar(f"{name}, bits/byte below a uniform byte", max(b), 8.0) for name, b in bits.items()]


if __name__ == "__main__":
    main("lowrank_bytes_gpt", measure)
