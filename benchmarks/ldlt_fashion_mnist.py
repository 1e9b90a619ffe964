"""Convolutional LDLT and SLL networks on Fashion-MNIST: clean and certified accuracy.

Both are trained by `experiment=ldlt_fashion_mnist`; the constant L, the inverse temperature of the
loss, is the better of three after an eighth of the epochs, by the mean of clean and certified
accuracies on the validation fold. The best weights of a run are certified by `archzoo certify` on
the full test fold, at 36, 72 and 108/255 of a pixel in L2, and on some test images attacked (APGD)
inside their radii and at the same ε.

    ARCHZOO_DATA=DIR python benchmarks/ldlt_fashion_mnist.py      DIR holds FashionMNIST/raw

Each result is appended to `results/ldlt_fashion_mnist_runs.jsonl` when it ends, and what stands
there is not run again.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from archzoo.train.command_line.finished_run import finished_run
from archzoo.train.commands.certify import CertifyConfig
from archzoo.train.commands.certify import measure as certified
from archzoo.train.config import run_config
from archzoo.train.run import run
from archzoo.train.schemas import register_schemas
from archzoo.zoo.certify.certify_model import EPS, certify
from harness import RESULTS, Bar, Measurement, main
from hydra import compose, initialize_config_module
from records import Records

MODELS = {"LDLT": "ldlt_resnet_tiny", "SLL": "sll_resnet_tiny"}
CONSTANTS = (1.0, 2.0, 4.0)
EPOCHS, SEEDS = 2.0, (0, 1)
ATTACKED = 200  # test images, evenly spread
CHOSEN = 1000  # validation images that choose the constant
FIGURES = ("clean", *(f"{round(255 * eps)}/255" for eps in EPS))


def train(model: str, lipschitz: float, seed: int, folder: Path, *more: str) -> float:
    """Train a point as the command line does; return the CPU seconds."""
    root = Path(os.environ.get("ARCHZOO_DATA", "data")).resolve()
    given = ["experiment=ldlt_fashion_mnist", f"model={MODELS[model]}", f"data.root={root}"]
    given += [f"model.lipschitz={lipschitz}", f"seed={seed}", f"run_dir={folder}", "logger=[csv]"]
    register_schemas()
    with initialize_config_module("archzoo.conf", version_base="1.3"):
        config = run_config(compose("train", overrides=[*given, *more]))
    began = time.process_time()
    run(config)
    return time.process_time() - began


def choice(model: str, lipschitz: float, epochs: float) -> dict[str, Any]:
    """Train for a part of the epochs; return accuracies, clean and certified, of validation."""
    with tempfile.TemporaryDirectory() as place:
        seconds = train(model, lipschitz, 0, Path(place) / "run", f"trainer.epochs={epochs}")
        ended = finished_run(str(Path(place) / "run"))
        fold = ended.splits.validation
        rows = range(0, len(fold), max(1, len(fold) // CHOSEN))
        x, y = fold.__getitems__([(0, i) for i in rows])
        found = certify(ended.model, x.double(), y, input_std=ended.splits.std,
                        attack=False, estimate=False)  # fmt: skip
    shares = [found.clean_accuracy, *found.certified_accuracy.values()]
    return {"validation": shares, "seconds": round(seconds, 1)}


def point(model: str, lipschitz: float, seed: int, *more: str, attacked: int) -> dict[str, Any]:
    """Train a point and certify it as `archzoo certify` does."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        seconds = train(model, lipschitz, seed, folder, *more)
        parameters = sum(p.numel() for p in finished_run(str(folder)).model.parameters())
        # Twice: the full fold without attacks, and a part of it with them.
        began = time.process_time()
        config = CertifyConfig(model=str(folder), attack=False, estimate=False, threads=1)
        facts, whole = certified(config)
        took = time.process_time() - began
        config = CertifyConfig(model=str(folder), samples=attacked, threads=1)
        _, part = certified(config)
    found = whole.to_dict()
    keep = ("method", "rigorous", "clean_accuracy", "certified_accuracy")
    fallen = part.to_dict()
    kept = ("attacked_samples", "attack_violations", "attacked_accuracy", "attack_margin")
    kept += ("clean_accuracy", "certified_accuracy", "lower_bound", "tightness")
    return {
        "samples": facts["samples"],
        "proved": found["lipschitz"],
        "parameters": parameters,
        "training seconds": round(seconds, 1),
        "certifying seconds": round(took, 1),
        **{key: found[key] for key in keep},
        "attack": {"samples": attacked, **{key: fallen[key] for key in kept}},
    }


def measure(quick: bool) -> Measurement:
    """Run what is missing and make the table."""
    torch.set_num_threads(1)
    if quick:
        short = ("trainer.epochs=null", "trainer.steps=4", "data.validation=59000")
        short += ("model.widths=[4,8,16]", "model.depths=[1,1,1]")
        runs = {(m, 0): (2.0, point(m, 2.0, 0, *short, attacked=16)) for m in MODELS}
        return [row(*key, *found) for key, found in runs.items()], []
    records, runs = Records(RESULTS / "ldlt_fashion_mnist_runs.jsonl"), {}
    constants = {}
    for model in MODELS:
        scores = {}
        for lipschitz in CONSTANTS:
            key = {"model": model, "lipschitz": lipschitz, "epochs": EPOCHS / 8}
            found = records.get(key, lambda m=model, c=lipschitz: choice(m, c, EPOCHS / 8))
            scores[lipschitz] = statistics.mean(found["validation"])
        constants[model] = max(scores, key=scores.__getitem__)
    for seed in SEEDS:
        for model in MODELS:
            lipschitz = constants[model]
            key = {"model": model, "lipschitz": lipschitz, "epochs": EPOCHS, "seed": seed}
            found = records.get(
                key, lambda m=model, c=lipschitz, s=seed: point(m, c, s, attacked=ATTACKED)
            )
            runs[model, seed] = lipschitz, found
            print(f"{model}, seed {seed} is done", flush=True)
    rows = [row(*key, *found) for key, found in runs.items()]
    ended = [found for _, found in runs.values()]
    bars = [
        Bar("violated radii", sum(one["attack"]["attack_violations"] for one in ended), 0),
        Bar("test images certified", min(one["samples"] for one in ended), 10_000, False),
        Bar("CPU minutes of training, largest",
            max(one["training seconds"] for one in ended) / 60, 10),
    ]  # fmt: skip
    return rows, bars


def row(model: str, seed: int, lipschitz: float, found: dict[str, Any]) -> dict[str, Any]:
    """One run, in per cent."""
    shares = [found["clean_accuracy"], *(one["accuracy"] for one in found["certified_accuracy"])]
    attack = found["attack"]
    shown: dict[str, Any] = {"model": model, "seed": seed, "L": lipschitz}
    shown["proved, pixels"] = round(found["proved"], 5)
    shown |= {name: round(100 * share, 2) for name, share in zip(FIGURES, shares, strict=True)}
    for one in attack["attacked_accuracy"]:
        name = f"APGD {round(255 * one['eps'])}/255 of {attack['samples']}"
        shown[name] = round(100 * one["accuracy"], 2)
    shown["attacked radii"] = attack["attacked_samples"]
    shown["violations"] = attack["attack_violations"]
    shown["tightness"] = round(attack["tightness"], 4)
    shown["parameters"] = found["parameters"]
    shown["training, CPU s"] = found["training seconds"]
    shown["certifying, CPU s"] = found["certifying seconds"]
    return shown


if __name__ == "__main__":
    main("ldlt_fashion_mnist", measure)
