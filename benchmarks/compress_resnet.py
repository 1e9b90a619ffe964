"""ResNet-20 on Fashion-MNIST at 40 and 30 % of its convolution parameters, by data.

Dense networks are those of `lowrank_fashion_mnist.py`: four epochs, three seeds. Each is compressed
by `compress` with 256 training samples; batch norms are then estimated anew on 2,000, and nothing
is trained. Rules for ranks are compared within one case. Kernels unfold by channel.

After that one epoch of training follows for the factors of one case and rule, once plainly and once
beside the dense network as a frozen teacher (`distill=pela`), at equal steps and learning rates.

    ARCHZOO_DATA=DIR python benchmarks/compress_resnet.py --check     DIR holds FashionMNIST/raw
    ARCHZOO_DATA=DIR python benchmarks/compress_resnet.py --runs      the runs alone, no table

What has ended is kept in `results/compress_resnet_runs.jsonl`, a line a run, and is not run again;
trainings lie in `runs/` and go on where they stopped. Figures of TRP and Maestro beside these are
those of `results/lowrank_fashion_mnist_runs.jsonl`.
"""

import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from archzoo.layers.lowrank import forward_batch, reestimate_batch_norm
from archzoo.train.engine.metrics import evaluate
from archzoo.train.measures.model_costs import model_costs
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.train.subject.model_and_folds import ModelOnData
from archzoo.zoo import save_model
from archzoo.zoo.network import Network
from archzoo.zoo.transform.calibration_pass import Directions
from archzoo.zoo.transform.compress import factorize
from archzoo.zoo.transform.layer_by_layer import LayerByLayer
from harness import RESULTS, Bar, Measurement, main
from lowrank_fashion_mnist import FOLDER as TRAINED
from lowrank_fashion_mnist import SHORT, train
from records import Records
from torch import Tensor

FOLDER = Path(__file__).parent.parent / "runs" / "compress_resnet"
SEEDS = (0, 1, 2)
SHARES = (0.4, 0.3)  # of the convolution parameters
CASES = ("svd", "feature_mimicking")
RULES = {
    "uniform": ("uniform", "local"),
    "energy": ("energy", "local"),
    "local": ("dp", "local"),
    "fisher": ("dp", "fisher"),
    "output": ("dp", "output"),
}
TUNED = ("feature_mimicking", "output")
TUNINGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "PELA": ("distill=pela", "distill.features=1", "distill.logits=0"),
    "PELA with logits": ("distill=pela", "distill.features=1", "distill.logits=1"),
}
CALIBRATION, BATCH, STATISTICS = 256, 64, 2_000
RATE = 0.02


class Compressed:
    """A dense network of one seed, and what a case says of its layers."""

    def __init__(self, seed: int, case: str, quick: bool = False, folder: Path = TRAINED) -> None:
        """Read data and moments."""
        root = str(Path(os.environ.get("ARCHZOO_DATA", "data")).resolve())
        place = find_model(str(folder / f"dense-{seed}"))
        self.subject: ModelOnData = model_on_data(place, None, {"root": root})
        self.model = cast(Network, self.subject.model)
        self.data = self.drawn(BATCH if quick else CALIBRATION, BATCH)
        controller = factorize(self.model, scheme="channel", ordered=False)
        shapes = {name: f.shape for name, f in controller.factors().items() if ":" not in name}
        directions = Directions(forward_batch, seed)
        self.work = LayerByLayer(case, self.model, shapes, self.data, forward_batch, directions)
        self.statistics = self.drawn(BATCH if quick else STATISTICS, 250)
        self.quick, self.seed = quick, seed
        self.known: dict[str, Mapping[str, Any]] = {}

    def drawn(self, samples: int, size: int) -> list[Tensor]:
        """Training samples."""
        return [x for x, _ in self.subject.drawn(samples, min(samples, size), seed=0)]

    def costs(self, sensitivity: str) -> Mapping[str, Any]:
        """What ranks cost, computed once for both shares."""
        if sensitivity not in self.known:
            self.known[sensitivity] = self.work.costs(sensitivity, None, self.seed)
        return self.known[sensitivity]

    def at(self, rule: str, share: float, out: Path | None) -> dict[str, Any]:
        """Compress to a share of the convolutions, and measure the test fold."""
        allocation, sensitivity = RULES[rule]
        one = self.subject.sample("test", 64)
        dense = model_costs({"dense": self.model}, one, seconds=0.0)["dense"]
        kernels, whole = dense["convolution parameters"], dense["parameters"]
        budget = (share * kernels + whole - kernels) / whole
        ranks = self.work.ranks(self.costs(sensitivity), budget, allocation)
        small = self.work.made(self.model, ranks, False)
        reestimate_batch_norm(small, self.statistics)
        found = model_costs({"small": small}, one, seconds=0.0)["small"]
        if out is not None:
            save_model(small, out)
        return {
            "accuracy": self.accuracy(small),
            "share": found["convolution parameters"] / kernels,
            "macs": found["MACs"] / dense["MACs"],
        }

    def accuracy(self, model: Network) -> float:
        """Of the test fold, or of a part of it."""
        batches = self.subject.batches("test", 250)
        first = itertools.islice(batches, 2) if self.quick else batches
        found = evaluate(model, first, "image", torch.device("cpu"), nullcontext)
        return found["accuracy"]


def tuned(seed: int, how: str, folder: Path, start: Path, *more: str) -> float:
    """Train the factors of a compressed network, and return the accuracy on the test fold."""
    root = Path(os.environ.get("ARCHZOO_DATA", "data")).resolve()
    given = ["experiment=lowrank_fashion_mnist", f"data.root={root}", f"seed={seed}"]
    given += [f"run_dir={folder}", "resume=auto", "logger=[csv]", "trainer.threads=1"]
    given += ["trainer.progress=false", f"init={start}", "lowrank=fixed_ranks"]
    given += ["trainer.epochs=1", f"optim.lr={RATE}", *TUNINGS[how]]
    given += [f"distill.teacher={TRAINED / f'dense-{seed}'}"] if TUNINGS[how] else []
    subprocess.run([sys.executable, "-m", "archzoo.train", *given, *more], check=True)
    return json.loads((folder / "result.json").read_text())["test"]["accuracy"]


def runs() -> dict[tuple[Any, ...], dict[str, Any]]:
    """Every result, run where it is missing."""
    records = Records(RESULTS / "compress_resnet_runs.jsonl")
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for seed in SEEDS:
        if not (TRAINED / f"dense-{seed}" / "result.json").exists():
            train("dense", seed, TRAINED / f"dense-{seed}")
        result = json.loads((TRAINED / f"dense-{seed}" / "result.json").read_text())
        found[seed, "dense"] = {"accuracy": result["test"]["accuracy"]}
        for case in CASES:
            subject = functools.cache(functools.partial(Compressed, seed, case))
            for rule, share in itertools.product(RULES, SHARES):
                key = {"seed": seed, "case": case, "rule": rule, "of": share}
                work = functools.partial(point, subject, case, rule, share, seed)
                found[seed, case, rule, share] = records.get(key, work)
    for share, seed, how in itertools.product(SHARES, SEEDS, TUNINGS):
        key = {"seed": seed, "tuning": how, "of": share}
        work = functools.partial(tuning, share, seed, how)
        found[seed, how, share] = records.get(key, work)
    return found


def point(
    subject: Callable[[], Compressed], case: str, rule: str, share: float, seed: int
) -> dict[str, Any]:
    """One compressed network, kept where it is trained on."""
    return subject().at(rule, share, start(share, seed) if (case, rule) == TUNED else None)


def tuning(share: float, seed: int, how: str) -> dict[str, Any]:
    """One epoch of training, of a compressed network that is made anew where it was not kept."""
    case, rule = TUNED
    if not start(share, seed).exists():
        Compressed(seed, case).at(rule, share, start(share, seed))
    folder = FOLDER / f"{how.replace(' ', '-')}-{share}-{seed}"
    return {"accuracy": tuned(seed, how, folder, start(share, seed))}


def start(share: float, seed: int) -> Path:
    """Where a compressed network lies that is trained on."""
    return FOLDER / f"{'-'.join(TUNED)}-{share}-{seed}"


def measure(quick: bool) -> Measurement:
    """Run what is missing and make the table."""
    torch.set_num_threads(1)
    return brief() if quick else judged(runs())


def brief() -> Measurement:
    """Two rules and all trainings on a network of three steps, to see that all of it runs."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train("dense", 0, folder / "dense-0", *SHORT)
        subject = Compressed(0, TUNED[0], quick=True, folder=folder)
        for rule in ("uniform", "output"):
            found = subject.at(rule, 0.8, folder / rule)
            rows.append({"ranks by": rule, **found})
        for how in TUNINGS:
            teacher = (f"distill.teacher={folder / 'dense-0'}",) if TUNINGS[how] else ()
            given = (0, how, folder / f"tuned {how}", folder / "output", *SHORT, *teacher)
            rows.append({"tuning": how, "accuracy": tuned(*given)})
    return rows, []


def judged(found: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Measurement:
    """Means and standard errors over the seeds, and what must hold of them."""

    def accuracies(*key: Any) -> list[float]:
        return [100 * found[(seed, *key)]["accuracy"] for seed in SEEDS]

    def row(what: str, *keys: tuple[Any, ...]) -> dict[str, Any]:
        shown: dict[str, Any] = {"what": what}
        for share, key in zip(SHARES, keys, strict=True):
            shown[f"{share:.0%}"] = round(statistics.mean(accuracies(*key)), 2)
            error = statistics.stdev(accuracies(*key)) / len(SEEDS) ** 0.5
            shown[f"{share:.0%}, standard error"] = round(error, 2)
        return shown

    def gain(of: tuple[Any, ...], over: tuple[Any, ...]) -> tuple[float, float]:
        pairs = zip(accuracies(*of), accuracies(*over), strict=True)
        gains = [a - b for a, b in pairs]
        return statistics.mean(gains), statistics.stdev(gains) / len(SEEDS) ** 0.5

    rows = [{"what": "dense", "40%": round(statistics.mean(accuracies("dense")), 2)}]
    for case, rule in itertools.product(CASES, RULES):
        rows.append(row(f"{case}, {rule}", *((case, rule, share) for share in SHARES)))
    rows += [row(how, *((how, share) for share in SHARES)) for how in TUNINGS]
    bars = []
    notes = []
    for case, share in itertools.product(CASES, SHARES):
        points, error = gain((case, "output", share), (case, "uniform", share))
        what = f"{case} at {share:.0%}: points of output over uniform"
        bars.append(Bar(what, points, 1.0, at_most=False))
        notes.append(f"{what}: {points:.2f} ± {error:.2f}")
    for how, share in itertools.product([h for h in TUNINGS if h != "plain"], SHARES):
        points, error = gain((how, share), ("plain", share))
        verdict = "" if points >= 0.3 else "; .3 not reproduced"
        notes.append(f"{how} over plain at {share:.0%}: {points:.2f} ± {error:.2f}{verdict}")
    return rows, bars, notes


if __name__ == "__main__":
    if sys.argv[1:2] == ["--runs"]:
        torch.set_num_threads(1)
        runs()
    else:
        main("compress_resnet", measure)
