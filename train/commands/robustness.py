"""Attack a model on the test fold of a data set, and show it foreign images.

Prints accuracy, clean and under attack, and how well three scores tell the test images from
out-sets. The data are those of the run or of the pretrained weights, unless others are named.
robustness.json is written into the folder of the run or of the saved model, or into folder=DIR:

    archzoo robustness RUN eps=[0.4,0.8,1.2,1.6] out=[digits,rotated,noise]
    archzoo robustness RUN norm=l2 eps=[36,72,108] restarts=5 dtype=float64 samples=1000
    archzoo robustness RUN "out=[{name: mnist, root: data}]"
    archzoo robustness hf-hub:OWNER/NAME data=cifar10 data.root=DIR folder=DIR
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..command_line.answer import Answer
from ..command_line.arguments import takes
from ..command_line.measured import ResultFolder, facts_of, first_line
from ..command_line.radius_arguments import RadiusConfig
from ..engine.process import choose_device
from ..errors import RunError, check_at_least_one
from ..measures.foreign_images import OutSet, out_sets
from ..measures.ood import scores, separation
from ..measures.pixels import FromPixels
from ..measures.robust_accuracy import FGSM, Robustness, adversarial_accuracy
from ..measures.robustness_table import table
from ..subject.model_on_data import ModelOnData

__all__ = ["RobustnessConfig", "measure", "robustness"]

FILE = "robustness.json"


@dataclass
class RobustnessConfig(RadiusConfig):
    """What to measure of a model.

    Args:
        norm: Of the radii.
        method: Of the attack.
        loss: That the attack climbs; null is the method's own.
        steps: Gradients of each restart; null is 40, and 1 for FGSM.
        restarts: Of the attack.
        box: Whether to hold pixels in [0, 1]; a table has no box.
        out: Out-sets, by name or as {name: NAME, key: value}; see train/measures/ood.py.
        temperature: Of the energy score.
        samples: Of the test fold and of each out-set; null is all.
        dtype: Of the model.
        device: Where the model runs.
        seed: Of random starts, noise and the choice of samples, and of the weights of a registered
            name.

    Raises:
        RunError: a value out of range.
    """

    _: KW_ONLY
    eps: tuple[float, ...] = (0.4, 0.8, 1.2, 1.6)
    norm: Literal["linf", "l2"] = "linf"
    method: Literal["fgsm", "pgd", "apgd"] = "apgd"
    loss: Literal[None, "margin", "cross_entropy"] = None
    steps: int | None = None
    restarts: int = 1
    box: bool = True
    out: tuple[Any, ...] = ("rotated", "noise")
    temperature: float = 1.0
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_at_least_one(steps=self.steps, restarts=self.restarts)
        if not self.temperature > 0:
            raise RunError(f"temperature must be above 0, got {self.temperature}")
        if self.method == "fgsm" and (self.restarts, self.steps or 1) != (1, 1):
            raise RunError(
                f"fgsm takes one step once, got steps={self.steps}, restarts={self.restarts}; "
                f"use method=pgd"
            )


@takes(RobustnessConfig)
def robustness(**options: Any) -> Answer:
    """Measure a model, and write what was found where there is a folder for it.

    Args:
        options: Fields of `RobustnessConfig`.
    """
    config = RobustnessConfig(**options)
    subject = config.subject()
    folder = ResultFolder(subject, config.folder)
    found = measure(config, subject)
    folder.write_text(FILE, json.dumps(found, indent=2) + "\n")
    head = first_line(found, f"{found['samples']:,} test samples", found["tested"])
    text = f"{head}\n{table(found)}\n\n{folder.last_line(FILE)}"
    return Answer(found | folder.facts(FILE), text)


def measure(config: RobustnessConfig, subject: ModelOnData | None = None) -> dict[str, Any]:
    """Evaluate a model and return what robustness.json holds.

    Args:
        config: The model, its data and what to measure.
        subject: The model on its data; None loads them.

    Raises:
        RunError: no such model or data, or an option does not fit them.
    """
    started = time.perf_counter()
    from tqdm import tqdm

    device, dtype = choose_device(config.device), getattr(torch, config.dtype)
    subject = config.subject() if subject is None else subject
    tested = subject.reported("test")
    try:
        model = subject.from_pixels().to(device, dtype).eval()
        shared = {
            "samples": config.samples,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "device": device,
            "dtype": dtype,
        }
        # Before the attack, which takes longest: what is missing should be said at once.
        splits = subject.splits
        outside = out_sets(config.out, splits, subject.data, **shared) if config.out else {}
        options = _attack_options(config, splits.kind)
        inside = _Inside(subject, shared)
        bar = tqdm(inside, "attack", unit=" batches", disable=not sys.stderr.isatty())
        attacked = adversarial_accuracy(model, bar, config.radii(), **options)
        told = _separations(model, (x for x, _ in inside), outside, config.temperature)
    except ValueError as error:
        raise RunError(str(error)) from error
    return {
        **facts_of(subject),
        "samples": attacked.right.shape[1],
        "tested": tested,
        "attack": options | {"method": config.method, "dtype": config.dtype},
        "clean": attacked.clean,
        "attacked": _rows(attacked, config.eps),
        **told,
        "temperature": config.temperature,
        "torch": torch.__version__,
        "device": str(device),
        "seconds": round(time.perf_counter() - started, 3),
    }


class _Inside:
    """The test fold's pixels, read anew each time: a large fold need not fit into memory."""

    def __init__(self, subject: ModelOnData, options: Mapping[str, Any]) -> None:
        self.subject, self.options = subject, options

    def __len__(self) -> int:
        size, given = len(self.subject.fold("test")), self.options
        return -(-min(size, given["samples"] or size) // given["batch_size"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.subject.pixels("test", **self.options)


def _attack_options(config: RobustnessConfig, kind: str) -> dict[str, Any]:
    """Keywords of `adversarial_accuracy`."""
    boxed = config.box and kind == "image"
    options = {
        "norm": config.norm,
        "method": config.method,
        "loss": "margin",
        "steps": config.steps or 40,
        "restarts": config.restarts,
        "box": (0.0, 1.0) if boxed else None,
        "seed": config.seed,
    }
    if config.method == "fgsm":
        options |= FGSM
    return options | ({} if config.loss is None else {"loss": config.loss})


def _rows(attacked: Robustness, eps: Sequence[float]) -> list[dict[str, float]]:
    pairs = zip(sorted(eps), attacked.attacked, strict=True)
    return [{"eps": radius, "accuracy": accuracy} for radius, accuracy in pairs]


def _separations(
    model: FromPixels,
    inside: Iterable[Tensor],
    outside: Mapping[str, OutSet],
    temperature: float,
) -> dict[str, Any]:
    """Mean scores of the in-set, and a row for each out-set and score."""
    if not outside:
        return {"inside": {}, "out": []}
    familiar = scores(model, inside, temperature)
    rows = []
    for name, make in outside.items():
        foreign = scores(model, make(), temperature)
        for score, values in foreign.items():
            row = {"set": name, "score": score, "images": len(values)}
            row["mean"] = float(values.mean())
            rows.append(row | separation(familiar[score], values)._asdict())
    return {"inside": {k: float(v.mean()) for k, v in familiar.items()}, "out": rows}
