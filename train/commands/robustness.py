"""Attack a trained model and show it foreign images.

Prints accuracy, clean and under attack, and how well three scores tell the test images from
out-sets, and writes both to robustness.json in the run folder:

    archzoo robustness RUN eps=[0.4,0.8,1.2,1.6] out=[digits,rotated,noise]
    archzoo robustness RUN norm=l2 eps=[36,72,108] restarts=5 dtype=float64 samples=1000
    archzoo robustness RUN "out=[{name: mnist, root: data}]"
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..command_line.answer import Answer
from ..command_line.arguments import takes
from ..command_line.finished_run import finished_run
from ..data import Splits
from ..engine.process import choose_device
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError, check_at_least_one
from ..measures.foreign_images import OutSet, out_sets
from ..measures.ood import scores, separation
from ..measures.pixels import FromPixels, pixel_batches
from ..measures.robust_accuracy import FGSM, Robustness, adversarial_accuracy
from ..measures.robustness_table import table

__all__ = ["RobustnessConfig", "measure", "robustness"]

UNIT = 255.0  # radii are given in grey levels, as papers do


@dataclass
class RobustnessConfig:
    """What to measure of a finished run.

    Args:
        run: The run folder.
        eps: Radii, in 1/255 of a pixel.
        norm: Of the radii.
        method: Of the attack.
        loss: That the attack climbs; null is the method's own.
        steps: Gradients of each restart; null is 40, and 1 for FGSM.
        restarts: Of the attack.
        box: Whether to hold pixels in [0, 1]; a table has no box.
        out: Out-sets, by name or as {name: NAME, key: value}; see train/measures/ood.py.
        temperature: Of the energy score.
        samples: Of the test fold and of each out-set; null is all.
        batch_size: Of samples.
        dtype: Of the model.
        device: Where the model runs.
        threads: CPU threads of torch; null leaves torch's choice.
        seed: Of random starts, noise and the choice of samples.
        root: Where the run's data lies now, if it has moved.
        other_data: Whether the data may differ from those that the run recorded.
        imports: Your own modules; null is those that the run recorded.

    Raises:
        RunError: a value out of range.
    """

    run: str
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
    samples: int | None = None
    batch_size: int = 250
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    seed: int = 0
    root: str | None = None
    other_data: bool = False
    imports: list[str] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = ("steps", "restarts", "samples", "batch_size", "threads")
        check_at_least_one(**{name: getattr(self, name) for name in counts})
        if not self.eps or not all(0 <= radius < float("inf") for radius in self.eps):
            raise RunError(f"eps must name radii of at least 0, in 1/255, got {list(self.eps)}")
        if not self.temperature > 0:
            raise RunError(f"temperature must be above 0, got {self.temperature}")
        if self.method == "fgsm" and (self.restarts, self.steps or 1) != (1, 1):
            raise RunError(
                f"fgsm takes one step once, got steps={self.steps}, restarts={self.restarts}; "
                f"use method=pgd"
            )


@takes(RobustnessConfig)
def robustness(**options: Any) -> Answer:
    """Measure the best model of a run and write robustness.json into its folder.

    Args:
        options: Fields of `RobustnessConfig`.
    """
    config = RobustnessConfig(**options)
    found = measure(config)
    folder = RunFolder(Path(config.run))
    folder.write_text("robustness.json", json.dumps(found, indent=2) + "\n")
    return Answer(found, f"{table(found)}\n\n{folder.path / 'robustness.json'}")


def measure(config: RobustnessConfig) -> dict[str, Any]:
    """Evaluate the best model of a run and return what robustness.json holds.

    Raises:
        RunError: the run has not ended, its data is missing, or an option does not fit it.
    """
    started = time.perf_counter()
    from tqdm import tqdm

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device, dtype = choose_device(config.device), getattr(torch, config.dtype)
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
