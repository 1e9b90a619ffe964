"""One epoch of training for compressed ResNet-20s, plainly and beside the dense one as a teacher.

The networks are those of `compress_resnet.py` by feature mimicking, with budgets that look at the
outputs, at 40 and 30 % of the convolution parameters and of three seeds. All are trained for 429
steps on Fashion-MNIST at one learning rate, by `archzoo train init=FOLDER lowrank=fixed_ranks`; the
dense network of the same seed is the frozen teacher of `distill=pela`. Gains are paired by seed.

    ARCHZOO_DATA=DIR python benchmarks/pela_resnet.py --keep       DIR holds FashionMNIST/raw
    ARCHZOO_DATA=DIR python benchmarks/pela_resnet.py --runs       the runs alone, no table

What has ended is kept in `results/pela_resnet_runs.jsonl`, a line a run, and is not run again;
trainings lie in `runs/` and go on where they stopped. The gain of .3 points that was looked for is
no bar: the notes say what was found.
"""

import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from compress_resnet import SEEDS, SHARES, Compressed, dense_accuracy, spread
from harness import RESULTS, Measurement, main
from lowrank_fashion_mnist import FOLDER as TRAINED
from lowrank_fashion_mnist import SHORT, train
from records import Records

FOLDER = Path(__file__).parent.parent / "runs" / "pela_resnet"
CASE, RULE = "feature_mimicking", "output"
TUNINGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "features": ("distill=pela", "distill.features=1", "distill.logits=0"),
    "features and logits": ("distill=pela", "distill.features=1", "distill.logits=1"),
}
RATE = 0.02
ASKED = 0.3  # points over plain training


def trained(seed: int, how: str, folder: Path, start: Path, teacher: Path, *more: str) -> float:
    """Train the factors of a compressed network, and return the accuracy on the test fold."""
    root = Path(os.environ.get("ARCHZOO_DATA", "data")).resolve()
    given = ["experiment=lowrank_fashion_mnist", f"data.root={root}", f"seed={seed}"]
    given += [f"run_dir={folder}", "resume=auto", "logger=[csv]", "trainer.threads=1"]
    given += ["trainer.progress=false", f"init={start}", "lowrank=fixed_ranks"]
    given += ["trainer.epochs=1", f"optim.lr={RATE}", *TUNINGS[how]]
    given += [f"distill.teacher={teacher}"] if TUNINGS[how] else []
    subprocess.run([sys.executable, "-m", "archzoo.train", *given, *more], check=True)
    return json.loads((folder / "result.json").read_text())["test"]["accuracy"]


def point(share: float, seed: int, how: str) -> dict[str, Any]:
    """One training, of a compressed network that is made where it is missing."""
    dense_accuracy(seed)
    start = FOLDER / f"start-{share}-{seed}"
    if not (start / "model.safetensors").exists():
        Compressed(seed, CASE).at(RULE, share, start)
    folder = FOLDER / f"{how.replace(' ', '-')}-{share}-{seed}"
    return {"accuracy": trained(seed, how, folder, start, TRAINED / f"dense-{seed}")}


def runs() -> dict[tuple[Any, ...], float]:
    """The accuracy of every training, in per cent, run where it is missing."""
    records = Records(RESULTS / "pela_resnet_runs.jsonl")
    found = {}
    for share, seed, how in itertools.product(SHARES, SEEDS, TUNINGS):
        key = {"seed": seed, "tuning": how, "of": share}
        work = functools.partial(point, share, seed, how)
        found[seed, how, share] = 100 * records.get(key, work)["accuracy"]
    return found


def measure(quick: bool) -> Measurement:
    """Run what is missing and make the table."""
    torch.set_num_threads(1)
    if quick:
        return brief()
    found = runs()
    rows: list[dict[str, Any]] = []
    for how in TUNINGS:
        row: dict[str, Any] = {"trained": how}
        for share in SHARES:
            average, error = spread([found[seed, how, share] for seed in SEEDS])
            row |= {f"{share:.0%}": average, f"{share:.0%}, standard error": error}
        rows.append(row)
    notes = []
    for how, share in itertools.product(TUNINGS, SHARES):
        if not TUNINGS[how]:
            continue
        gains = [found[seed, how, share] - found[seed, "plain", share] for seed in SEEDS]
        points, error = spread(gains)
        verdict = "" if points >= ASKED else f"; a gain of {ASKED:g} is not reproduced"
        notes.append(f"{how} over plain at {share:.0%}: {points:+.2f} ± {error:.2f}{verdict}")
    return rows, [], notes


def brief() -> Measurement:
    """Three steps of each, to see that all of it runs."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train("dense", 0, folder / "dense-0", *SHORT)
        Compressed(0, CASE, quick=True, folder=folder).at("uniform", 0.8, folder / "small")
        given = folder / "small", folder / "dense-0"
        return [
            {"trained": how, "accuracy": trained(0, how, folder / how, *given, *SHORT)}
            for how in TUNINGS
        ], []


if __name__ == "__main__":
    if sys.argv[1:2] == ["--runs"]:
        torch.set_num_threads(1)
        runs()
    else:
        main("pela_resnet", measure)
