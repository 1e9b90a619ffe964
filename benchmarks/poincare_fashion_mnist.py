"""A Poincaré ResNet beside its flat twins on Fashion-MNIST: accuracy, foreign images, attacks.

Every network is trained by `experiment=poincare_resnet_fashion_mnist`; its learning rate is the
better of two at seed 0 after a quarter of the epochs, by validation accuracy. The best
weights of each run are then shown digits, rotated test images and noise, and attacked
(`archzoo robustness`). An order is claimed only where two means differ by more than two standard
errors.

    ARCHZOO_DATA=DIR python benchmarks/poincare_fashion_mnist.py      DIR holds FashionMNIST/raw

Each result is appended to `results/poincare_fashion_mnist_runs.jsonl` when it ends, and what stands
there is not run again. A run takes minutes on one core.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import RESULTS, Bar, Measurement, main
from records import Records
from spread import summary, verdict

MODELS = ("poincare_resnet_tiny", "euclidean_resnet_tiny", "euclidean_resnet_tiny_poincare_head")
RATES = (0.003, 0.01)
SEEDS = (0, 1)
EPS = (1, 2, 4, 8)  # L∞, in 1/255
OUT = ("digits", "rotated", "noise")
SCORES = ("norm", "energy")
EPOCHS = 4


def run(
    model: str, lr: float, seed: int, epochs: float, robust: bool, *more: str
) -> dict[str, Any]:
    """Train one point with the command line, attack it, and return its figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        root = os.environ.get("ARCHZOO_DATA", "data")
        command = [
            *(sys.executable, "-m", "archzoo.train", "experiment=poincare_resnet_fashion_mnist"),
            *(f"model={model}", f"optim.lr={lr}", f"seed={seed}", f"trainer.epochs={epochs}"),
            *(f"data.root={Path(root).resolve()}", f"run_dir={folder}", "logger=[csv]", *more),
        ]
        subprocess.run(command, check=True, cwd=place, stdout=subprocess.DEVNULL)
        result = json.loads((folder / "result.json").read_text())
        found = {fold: result[fold]["accuracy"] for fold in ("validation", "test")}
        if robust:
            command = [
                *(sys.executable, "-m", "archzoo.train.commands", "robustness", str(folder)),
                *(f"eps=[{','.join(map(str, EPS))}]", f"out=[{','.join(OUT)}]", "steps=20"),
                *("method=pgd", "samples=1000", "threads=1"),
            ]
            subprocess.run(command, check=True, cwd=place, stdout=subprocess.DEVNULL)
            found["robustness"] = json.loads((folder / "robustness.json").read_text())
        return found


def point(records: Records, model: str, lr: float, seed: int, epochs: float, robust: bool) -> Any:
    """Return a point from the record, or train it."""
    key = {"model": model, "lr": lr, "seed": seed, "epochs": epochs, "robust": robust}

    def train() -> dict[str, Any]:
        found = run(model, lr, seed, epochs, robust)
        print(f"{model}, lr {lr}, seed {seed}, {epochs} epochs: {found['test']:.4f}", flush=True)
        return found

    return records.get(key, train)


def measure(quick: bool) -> Measurement:
    """Train every point that is missing and make the table."""
    if quick:
        short = ("trainer.epochs=null", "trainer.steps=10", "trainer.evaluate_every=10")
        found = {name: [run(name, 0.003, 0, "null", False, *short[1:])] for name in MODELS[:2]}
        rows = [{"model": name, "test, %": 100 * one["test"]} for name, (one,) in found.items()]
        return rows, []
    records = Records(RESULTS / "poincare_fashion_mnist_runs.jsonl")
    found, rates = {}, {}
    for name in MODELS:
        rates[name] = max(
            RATES,
            key=lambda lr: point(records, name, lr, 0, EPOCHS / 4, False)["validation"],  # noqa: B023
        )
    for seed in SEEDS:
        for name in MODELS:
            one = point(records, name, rates[name], seed, EPOCHS, True)
            found.setdefault(name, []).append(one)
    rows = [row(name, rates[name], found[name], found[MODELS[1]]) for name in MODELS]
    bars = [
        Bar(f"{name}: accuracy under attack over clean, largest", worst(found[name]), 1.0)
        for name in MODELS
    ]
    return rows, bars


def row(name: str, lr: float, runs: list[Any], reference: list[Any]) -> dict[str, Any]:
    """Means over seeds, in per cent; ± is the standard error."""
    shown: dict[str, Any] = {"model": name, "lr": lr}
    shown["clean"] = percent([one["test"] for one in runs])
    # By test error, of which less is better.
    errors = [[100 - 100 * one["test"] for one in some] for some in (runs, reference)]
    shown["against the twin"] = verdict(*errors)
    for i, eps in enumerate(EPS):
        shown[f"PGD {eps}/255"] = percent(
            [one["robustness"]["attacked"][i]["accuracy"] for one in runs]
        )
    for out in OUT:
        for score in SCORES:
            shown[f"AUROC {out}, {score}"] = percent([auroc(one, out, score) for one in runs])
    return shown


def auroc(one: dict[str, Any], out: str, score: str) -> float:
    """Return the mean AUROC over the variants of an out-set, such as two kinds of noise."""
    rows = [r for r in one["robustness"]["out"] if r["set"].startswith(out) and r["score"] == score]
    return sum(r["auroc"] for r in rows) / len(rows)


def percent(shares: list[float]) -> str:
    """Write mean and standard error in per cent."""
    mean, error = summary([100 * share for share in shares])
    return f"{mean:.2f} ± {error:.2f}"


def worst(runs: list[Any]) -> float:
    """Return the largest ratio of attacked to clean accuracy on the same samples."""
    return max(
        attacked["accuracy"] / one["robustness"]["clean"]
        for one in runs
        for attacked in one["robustness"]["attacked"]
    )


if __name__ == "__main__":
    main("poincare_fashion_mnist", measure)
