"""Learning curves of points at equal samples: runs of the trainer, a folder each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.saved.run_folder import RunFolder
from ..errors import RunError, RunStopped
from ..report.run_record import read_run
from ..report.side_files import COSTS_FILE
from ..run import run
from ..sweep import forget_failure, record_failure
from .points import ComparedPoint, training_config

__all__ = ["Trained", "train_points"]


@dataclass(frozen=True)
class Trained:
    """A run that ended.

    Attributes:
        seed: Of the run.
        folder: Where it is.
        validation: Metrics of its best model.
        test: The same on the test fold.
        curve: Rows of its validation, with `step` and `samples`.
    """

    seed: int
    folder: str
    validation: Mapping[str, float]
    test: Mapping[str, float]
    curve: list[dict[str, float | None]]


def train_points(
    points: Sequence[ComparedPoint],
    costs: Mapping[str, Mapping[str, Any]],
    data: str,
    steps: int,
    seeds: int,
    overrides: Sequence[str],
    out: Path,
) -> tuple[dict[str, list[Trained]], dict[str, str]]:
    """Train every point with every seed, all of one seed before the next.

    A run that ended before is not done again, and one that was stopped goes on: the same command
    takes a comparison up where it was.

    Args:
        points: What to train.
        costs: What was measured of each, by its label; it is kept in the folders of its runs.
        data: A data set's name.
        steps: Of every run.
        seeds: How many runs each point has.
        overrides: Further settings.
        out: The folder of all runs: `out/POINT/seed-N`.

    Returns:
        The runs that ended, and why a point has fewer, both by label.

    Raises:
        RunStopped: a run was asked to stop.
    """
    found: dict[str, list[Trained]] = {point.label: [] for point in points}
    failed: dict[str, str] = {}
    for seed in range(seeds):
        for point in points:
            folder = out / point.slug / f"seed-{seed}"
            try:
                config = training_config(point, data, seed, steps, overrides)
                config.run_dir, config.resume = str(folder), "auto"
                config.name = f"{point.values['model']}-{data}"
                forget_failure(folder)
                run(config)
            except RunStopped:
                raise
            except RunError as error:
                record_failure(folder, error)
                failed[point.label] = f"seed {seed}: {error}"
                continue
            text = json.dumps(costs[point.label], indent=2) + "\n"
            RunFolder(folder).write_text(COSTS_FILE, text)
            found[point.label].append(_trained(folder, seed))
    return found, failed


def _trained(folder: Path, seed: int) -> Trained:
    record = read_run(folder)
    if record.result is None:
        raise RunError(f"{folder} ended and cannot be read: {'; '.join(record.trouble)}")
    trainer = record.config["trainer"]
    size = trainer["batch_size"] * trainer["accumulate"]
    names = [n for n in ("loss", "accuracy", "bits_per_byte") if n in record.result["validation"]]
    curves = {name: record.curve("validation", name) for name in names}
    curve = [
        {"step": step, "samples": step * size} | {name: curves[name].get(step) for name in names}
        for step in curves["loss"]
    ]
    return Trained(seed, str(folder), record.result["validation"], record.result["test"], curve)
