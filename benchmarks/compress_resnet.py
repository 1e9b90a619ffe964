"""ResNet-20 on Fashion-MNIST at 40 and 30 % of its convolution parameters, by data.

Dense networks are those of `lowrank_fashion_mnist.py`: four epochs, three seeds. Each is compressed
by `compress` with 256 training samples; batch norms are then estimated anew on 2,000, and nothing
is trained. Rules for ranks are compared within one case. Kernels unfold by channel.

    ARCHZOO_DATA=DIR python benchmarks/compress_resnet.py --check     DIR holds FashionMNIST/raw
    ARCHZOO_DATA=DIR python benchmarks/compress_resnet.py --runs      the runs alone, no table

What has ended is kept in `results/compress_resnet_runs.jsonl`, a line a run, and is not run again;
trainings lie in `runs/` and go on where they stopped. TRP and Maestro, which train with compression
in view, stand beside it by their figures of `results/lowrank_fashion_mnist.json`. What one epoch of
training makes of the result is measured by `pela_resnet.py`.
"""

import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from archzoo.layers.lowrank import forward_batch, reestimate_batch_norm
from archzoo.train.engine.metrics import evaluate
from archzoo.train.measures.model_costs import model_costs
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.train.subject.model_on_data import ModelOnData
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
CALIBRATION, BATCH, STATISTICS = 256, 64, 2_000


class Compressed:
    """A dense network of one seed, and what a case says of its layers."""

    def __init__(self, seed: int, case: str, quick: bool = False, folder: Path = TRAINED) -> None:
        """Read data and moments."""
        root = str(Path(os.environ.get("ARCHZOO_DATA", "data")).resolve())
        place = find_model(str(folder / f"dense-{seed}"))
        self.subject: ModelOnData = model_on_data(place, {"root": root})
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

    def at(self, rule: str, share: float, out: Path | None = None) -> dict[str, Any]:
        """Compress to a share of the convolutions and measure the test fold; save where asked."""
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


def runs() -> dict[tuple[Any, ...], dict[str, Any]]:
    """Every result, run where it is missing."""
    records = Records(RESULTS / "compress_resnet_runs.jsonl")
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for seed in SEEDS:
        found[seed, "dense"] = {"accuracy": dense_accuracy(seed)}
        for case in CASES:
            subject = functools.cache(functools.partial(Compressed, seed, case))
            for rule, share in itertools.product(RULES, SHARES):
                key = {"seed": seed, "case": case, "rule": rule, "of": share}
                work = functools.partial(point, subject, rule, share)
                found[seed, case, rule, share] = records.get(key, work)
    return found


def dense_accuracy(seed: int) -> float:
    """Of the dense network, which is trained where it is missing."""
    folder = TRAINED / f"dense-{seed}"
    if not (folder / "result.json").exists():
        train("dense", seed, folder)
    return json.loads((folder / "result.json").read_text())["test"]["accuracy"]


def point(subject: Callable[[], Compressed], rule: str, share: float) -> dict[str, Any]:
    """One compressed network; what is common to those of a case is made at the first."""
    return subject().at(rule, share)


def measure(quick: bool) -> Measurement:
    """Run what is missing and make the table."""
    torch.set_num_threads(1)
    return brief() if quick else judged(runs())


def brief() -> Measurement:
    """Two rules on a network of three steps, to see that all of it runs."""
    with tempfile.TemporaryDirectory() as place:
        train("dense", 0, Path(place) / "dense-0", *SHORT)
        subject = Compressed(0, "feature_mimicking", quick=True, folder=Path(place))
        return [{"what": rule, **subject.at(rule, 0.8)} for rule in ("uniform", "output")], []


def judged(found: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Measurement:
    """Means and standard errors over the seeds, and what must hold of them."""

    def accuracies(*key: Any) -> list[float]:
        return [100 * found[(seed, *key)]["accuracy"] for seed in SEEDS]

    rows: list[dict[str, Any]] = [{"case": "dense", "40%": spread(accuracies("dense"))[0]}]
    for case, rule in itertools.product(CASES, RULES):
        shown: dict[str, Any] = {"case": case, "ranks by": rule}
        for share in SHARES:
            average, error = spread(accuracies(case, rule, share))
            shown |= {f"{share:.0%}": average, f"{share:.0%}, standard error": error}
            macs = [found[seed, case, rule, share]["macs"] for seed in SEEDS]
            shown[f"{share:.0%}, MACs"] = round(statistics.mean(macs), 3)
        rows.append(shown)
    bars, notes = [], []
    for case, share in itertools.product(CASES, SHARES):
        pairs = zip(
            accuracies(case, "output", share), accuracies(case, "uniform", share), strict=True
        )
        points, error = spread([a - b for a, b in pairs])
        what = f"{case} at {share:.0%}: points of output over uniform"
        bars.append(Bar(what, points, 1.0, at_most=False))
        notes.append(f"{what}: {points:.2f} ± {error:.2f} over {len(SEEDS)} seeds")
    return rows, bars, notes


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean of some figures and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return round(statistics.mean(values), 2), round(error, 2)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--runs"]:
        torch.set_num_threads(1)
        runs()
    else:
        main("compress_resnet", measure)
