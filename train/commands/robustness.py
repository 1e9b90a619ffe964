"""Attack a trained model and show it foreign images.

Prints accuracy, clean and under attack, and how well three scores tell the test images from
out-sets, and writes both to robustness.json in the run folder:

    archzoo-robustness run=DIR eps=[0.4,0.8,1.2,1.6] out=[digits,rotated,noise]
    archzoo-robustness run=DIR norm=l2 eps=[36,72,108] restarts=5 dtype=float64 samples=1000
    archzoo-robustness run=DIR out=[{name: mnist, root: data}]
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor

from ..data import Splits
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError
from ..measures.foreign_images import OutSet, out_sets
from ..measures.ood import scores, separation
from ..measures.pixels import FromPixels, pixel_batches
from ..measures.robust_accuracy import FGSM, Robustness, adversarial_accuracy
from .arguments import print_help, read_fields
from .finished_run import finished_run
from .robustness_table import NORMS, table

__all__ = ["RobustnessConfig", "main", "measure", "read_arguments"]

UNIT = 255.0  # radii are given in grey levels, as papers do


@dataclass
class RobustnessConfig:
    """What to measure of a finished run; every field is a key of the command line."""

    run: str = MISSING  # the run folder
    eps: list[float] = field(default_factory=lambda: [0.4, 0.8, 1.2, 1.6])  # in 1/255 of a pixel
    norm: str = "linf"  # l2 or linf
    method: str = "apgd"  # fgsm, pgd or apgd
    loss: str | None = None  # margin or cross_entropy; None is the method's own
    steps: int | None = None  # gradients of each restart; None is 40, and 1 for FGSM
    restarts: int = 1
    box: bool = True  # hold pixels in [0, 1]; a table has no box
    out: list[Any] = field(
        default_factory=lambda: ["rotated", "noise"]
    )  # see train/measures/ood.py
    temperature: float = 1.0  # of the energy score
    samples: int | None = None  # of the test fold and of each out-set; None is all
    batch_size: int = 250
    dtype: str = "float32"  # or float64
    device: str = "auto"  # auto, cpu, cuda
    threads: int | None = None  # CPU threads of torch; None leaves torch's choice
    seed: int = 0  # of random starts, noise and the choice of samples
    root: str | None = None  # where the run's data lies now, if it has moved
    other_data: bool = False  # whether the data may differ from those that the run recorded
    imports: list[str] | None = None  # the user's own modules; None is those that the run recorded


def read_arguments(arguments: Sequence[str]) -> RobustnessConfig:
    """Read `key=value` arguments into typed fields.

    Raises:
        RunError: in one line, an unknown key, a value of another type or out of range, no run.
    """
    config = read_fields("robustness", RobustnessConfig, arguments)
    _check(config)
    return config


def measure(config: RobustnessConfig) -> dict[str, Any]:
    """Evaluate the best model of a run and return what robustness.json holds.

    Raises:
        RunError: the run has not ended, its data is missing, or an option does not fit it.
    """
    started = time.perf_counter()
    from tqdm import tqdm

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device, dtype = _device(config.device), getattr(torch, config.dtype)
    run = finished_run(
        config.run, config.root, other_data=config.other_data, imports=config.imports
    )
    splits, name = run.splits, run.data
    try:
        model = FromPixels(run.model, splits.mean, splits.std).to(device, dtype).eval()
        shared = {
            "samples": config.samples,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "device": device,
            "dtype": dtype,
        }
        # Before the attack, which takes longest: what is missing should be said at once.
        outside = out_sets(config.out, splits, name, **shared) if config.out else {}
        options = _attack_options(config, splits)
        radii = [radius / UNIT for radius in config.eps]
        inside = _Inside(splits, shared)
        bar = tqdm(inside, "attack", unit=" batches", disable=not sys.stderr.isatty())
        attacked = adversarial_accuracy(model, bar, radii, **options)
        told = _separations(model, (x for x, _ in inside), outside, config.temperature)
    except ValueError as error:
        raise RunError(str(error)) from error
    return {
        "model": run.name,
        "data": name,
        "samples": attacked.right.shape[1],
        "tested": run.tested,
        "attack": options | {"method": config.method, "dtype": config.dtype},
        "clean": attacked.clean,
        "attacked": _rows(attacked, config.eps),
        **told,
        "temperature": config.temperature,
        "torch": torch.__version__,
        "device": str(device),
        "seconds": round(time.perf_counter() - started, 3),
    }


def main() -> None:
    """Measure, print and write; an error of the user's is one line and exit code 1."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print_help(__doc__, "train/commands/robustness.py", RobustnessConfig)
        return
    try:
        config = read_arguments(arguments)
        found = measure(config)
        folder = RunFolder(Path(config.run))
        folder.write_text("robustness.json", json.dumps(found, indent=2) + "\n")
    except RunError as error:
        sys.exit(f"archzoo-robustness: {error}")
    print(table(found))
    print(f"\n{folder.path / 'robustness.json'}")


def _check(config: RobustnessConfig) -> None:
    choices = {
        "norm": tuple(NORMS),
        "method": ("fgsm", "pgd", "apgd"),
        "loss": (None, "margin", "cross_entropy"),
        "dtype": ("float32", "float64"),
        "device": ("auto", "cpu", "cuda"),
    }
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            shown = ", ".join("null" if a is None else a for a in allowed)
            raise RunError(f"{name} must be one of {shown}, got {value!r}")
    for name in ("steps", "restarts", "samples", "batch_size", "threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise RunError(f"{name} must be at least 1, got {value}")
    if not config.eps or not all(0 <= radius < float("inf") for radius in config.eps):
        raise RunError(f"eps must name radii of at least 0, in 1/255, got {config.eps}")
    if not config.temperature > 0:
        raise RunError(f"temperature must be above 0, got {config.temperature}")
    if config.method == "fgsm" and (config.restarts, config.steps or 1) != (1, 1):
        raise RunError(
            f"fgsm takes one step once, got steps={config.steps}, restarts={config.restarts}; "
            f"use method=pgd"
        )


class _Inside:
    """The test fold's pixels, read anew each time: a large fold need not fit into memory."""

    def __init__(self, splits: Splits, options: Mapping[str, Any]) -> None:
        self.splits, self.options = splits, options

    def __len__(self) -> int:
        size, given = len(self.splits.test), self.options
        return -(-min(size, given["samples"] or size) // given["batch_size"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        splits = self.splits
        return pixel_batches(splits.test, splits.mean, splits.std, **self.options)


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("device=cuda, but torch sees no CUDA device; use device=cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _attack_options(config: RobustnessConfig, splits: Splits) -> dict[str, Any]:
    """Keywords of `adversarial_accuracy`."""
    boxed = config.box and splits.kind == "image"
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


if __name__ == "__main__":
    main()
