"""Optimisers that keep less: loss of a byte-level GPT, bytes of their state, and time of a step.

Every optimiser trains the same GPT (two blocks of width 96) on the six novels of Jane Austen in
`$ARCHZOO_DATA/austen`, matrices at a quarter of the width and all else by AdamW. One learning rate
serves all parameters: the best of a grid at seed 0, which is extended until the best lies inside
it. Two more seeds run at that rate. Columns that are not cosines are chosen every 20 steps, as
short runs need; GaLore's authors choose them every 200 of many thousand.

Bytes are those of the storages that the optimiser holds for the projected matrices, the table of
cosines included. Each run is appended to `results/projected_optimizers_runs.jsonl` when it ends,
and what stands there is not run again.
"""

import contextlib
import io
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.lowrank.optim.matrix_groups import matrix_groups
from archzoo.train.config import OptimConfig, run_config
from archzoo.train.engine.optim import make_optimizer
from archzoo.train.run import run
from archzoo.train.schemas import register_schemas
from archzoo.zoo import create_model
from gradient_energy import energies
from harness import RESULTS, Bar, Measurement, interleaved, main, median_ratio
from hydra import compose, initialize_config_module
from novels import novels
from projected_peers import identities, parities
from records import Records
from spread import summary, verdict
from torch import Tensor, nn

STEPS, EVERY = 600, 20
METHODS: dict[str, dict[str, Any]] = {
    "AdamW": {"name": "adamw", "fused": True},
    "DCT": {"name": "projected_adamw", "basis": "dct"},
    "random": {"name": "projected_adamw", "basis": "random", "update_every": EVERY},
    "DCT, every 20 steps": {"name": "projected_adamw", "basis": "dct", "update_every": EVERY},
    "SVD": {"name": "projected_adamw", "basis": "svd", "update_every": EVERY},
    "DCT, error feedback": {"name": "projected_adamw", "basis": "dct", "error_feedback": "int8"},
    "Trion": {"name": "trion"},
}
RATES = (0.002, 0.005, 0.01)
OUTER = (0.02, 0.05, 0.1, 0.001, 0.0005)  # taken up where the best rate is at an end
SEEDS = (0, 1, 2)
SHAPE = {"width": 96, "depth": 2, "num_heads": 4, "context_length": 64}


def optimizer_config(method: str, rate: float) -> OptimConfig:
    """The optimiser of a method as the trainer makes it."""
    options = {k: v for k, v in METHODS[method].items() if k != "name"} | {"betas": [0.9, 0.99]}
    return OptimConfig(METHODS[method]["name"], rate, 0.0, options)


def point(method: str, rate: float, seed: int, text: Path, *more: str) -> dict[str, Any]:
    """Train a point as the command line does; return its bits per byte and CPU seconds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        given = ["experiment=lowrank_bytes_gpt", f"seed={seed}", f"run_dir={folder}"]
        given += [f"data.path={text}", "data.pattern=*.txt", "logger=[csv]"]
        given += [f"trainer.steps={STEPS}", f"trainer.evaluate_every={STEPS}"]
        register_schemas()
        with initialize_config_module("archzoo.conf", version_base="1.3"):
            composed = compose("train", overrides=[*given, "trainer.progress=false", *more])
            config = run_config(composed)
        config.optim = optimizer_config(method, rate)
        began = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            run(config)
        seconds = time.process_time() - began
        ended = json.loads((folder / "result.json").read_text())
    bits = {fold: ended[fold]["bits_per_byte"] for fold in ("validation", "test")}
    return {**bits, "seconds": round(seconds, 1)}


def result(records: Records, text: Path, method: str, rate: float, seed: int) -> dict[str, Any]:
    """Return a point, from the record or by training it."""
    key = {"method": method, "settings": METHODS[method], "steps": STEPS}
    key |= {"rate": rate, "seed": seed}
    return records.get(key, lambda: point(method, rate, seed, text))


def best_rate(records: Records, text: Path, method: str) -> tuple[float, dict[float, float]]:
    """Return the best rate at seed 0 and the bits per byte of every rate tried."""
    tried: dict[float, float] = {}
    wanted = list(RATES)
    while wanted:
        for rate in wanted:
            tried[rate] = result(records, text, method, rate, 0)["validation"]
        best = min(tried, key=tried.__getitem__)
        beyond = [r for r in OUTER if (r > best if best == max(tried) else r < best)]
        at_end = best in (min(tried), max(tried))
        wanted = [r for r in beyond if r not in tried][:1] if at_end else []
    return min(tried, key=tried.__getitem__), tried


def held(optimizer: torch.optim.Optimizer, matrices: list[nn.Parameter]) -> int:
    """Bytes that an optimiser holds for matrices: storages, each once, and tables of cosines."""
    tensors = [
        value
        for p in matrices
        for value in optimizer.state[p].values()
        if isinstance(value, Tensor)
    ]
    for basis in (*getattr(optimizer, "_bases", {}).values(), getattr(optimizer, "_cosines", None)):
        tensors += getattr(basis, "_tables", {}).values()
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def costs(names: list[str], repetitions: int) -> dict[str, dict[str, float]]:
    """Bytes for the projected matrices, and time on one thread over that of AdamW."""
    torch.set_num_threads(1)
    tokens = torch.randint(256, (16, SHAPE["context_length"] + 1))
    made = {}
    for name in names:
        torch.manual_seed(0)
        model = create_model("gpt_nano", **SHAPE)
        made[name] = model, make_optimizer(model, optimizer_config(name, 1e-4))

    def step(name: str, *, whole: bool) -> float:
        model, optimizer = made[name]
        began = time.perf_counter()
        # A multiple of EVERY, so that every repetition chooses columns equally often.
        for _ in range(EVERY):
            if whole:
                optimizer.zero_grad()
                logits = model(tokens[:, :-1]).flatten(0, 1)
                nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).backward()
            optimizer.step()
        return (time.perf_counter() - began) / EVERY

    for name in names:
        step(name, whole=True)
    figures: dict[str, dict[str, list[float]]] = {}
    for what, whole in (("training step", True), ("its update alone", False)):
        figures[what] = interleaved(
            {name: lambda n=name, w=whole: step(n, whole=w) for name in names}, repetitions
        )
    reference, found = names[0], {}
    for name, (model, optimizer) in made.items():
        groups = matrix_groups(model)
        bytes_held = held(optimizer, [p for g in groups if g["projected"] for p in g["params"]])
        found[name] = {"KiB of the matrices": bytes_held / 1024} | {
            f"{what} over AdamW": median_ratio(times[name], times[reference])
            for what, times in figures.items()
        }
    for name in names:
        kept = found[name]["KiB of the matrices"] / found[reference]["KiB of the matrices"]
        found[name]["bytes over AdamW"] = round(kept, 4)
    return found


def measure(quick: bool) -> Measurement:
    """Train every point that is missing, count and time, and judge the identities."""
    bars = [*identities(), *parities()]
    notes: list[str] = []
    names = ["AdamW", "DCT", "random", "Trion"] if quick else list(METHODS)
    measured = costs(names, 3 if quick else 5)
    if quick:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            # The project's own sources are a small corpus; the figures are of no interest.
            sources = sorted((Path(__file__).parents[1] / "layers").rglob("*.py"))
            text.write("".join(path.read_text() for path in sources))
            text.flush()
            short = ("trainer.steps=10", "trainer.evaluate_every=10")
            found = {n: [point(n, 0.005, 0, Path(text.name), *short)] for n in names}
        rates, grids = dict.fromkeys(names, 0.005), dict.fromkeys(names, {0.005: math.nan})
    else:
        text, found, rates, grids = novels(), {}, {}, {}
        records = Records(RESULTS / "projected_optimizers_runs.jsonl")
        for name in names:
            rates[name], grids[name] = best_rate(records, text, name)
            found[name] = [result(records, text, name, rates[name], seed) for seed in SEEDS]
            print(f"{name} is done", flush=True)
        shares = records.get({"energy of": SHAPE}, lambda: energies(text, SHAPE))
        told = ", ".join(f"{k} {v:.1%}" for k, v in shares.items() if k != "energy of")
        notes.append(f"of the energy of gradients in a quarter of the columns: {told}")
    bits = {name: [one["validation"] for one in found[name]] for name in names}
    rows = []
    for name in names:
        mean, error = summary(bits[name])
        rows.append(
            {
                "optimiser": name,
                "bits/byte": round(mean, 4),
                "standard error": round(error, 4),
                "bits over AdamW": round(mean / summary(bits["AdamW"])[0], 4),
                "against AdamW": verdict(bits[name], bits["AdamW"]),
                "seeds": [round(b, 4) for b in bits[name]],
                "test": round(statistics.mean(one["test"] for one in found[name]), 4),
                "rate": rates[name],
                "rates tried": {str(r): round(b, 4) for r, b in sorted(grids[name].items())},
                "rate inside the grid": min(grids[name]) < rates[name] < max(grids[name]),
                **measured[name],
                "seconds": statistics.median(one["seconds"] for one in found[name]),
            }
        )
    kept = measured["DCT"]["bytes over AdamW"]
    bars.append(Bar("bytes of the DCT's state over AdamW's, projected matrices", kept, 0.3))
    if not quick:
        means = {name: summary(each)[0] for name, each in bits.items()}
        for name in ("DCT", "DCT, error feedback"):
            ratio = f"bits/byte of {name} at a quarter of the width over"
            bars.append(Bar(f"{ratio} AdamW's", means[name] / means["AdamW"], 1.02))
            bars.append(Bar(f"{ratio} a random basis's", means[name] / means["random"], 1.0))
    return rows, bars, notes


if __name__ == "__main__":
    main("projected_optimizers", measure)
