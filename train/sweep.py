"""A sweep as a whole: its points that failed, and what it says at its end."""

import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from .errors import RunError

__all__ = ["SweepSummary", "forget_failure", "record_failure"]

FAILURE = "error.txt"


def record_failure(folder: Path, error: RunError) -> None:
    """Leave the error of a point in its folder, and say it, unless another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE).write_text(f"{error}\n")
    if not error.said:
        print(f"archzoo-train: {folder}: {error}", file=sys.stderr)


def forget_failure(folder: Path) -> None:
    """Remove the error of an earlier try."""
    (folder / FAILURE).unlink(missing_ok=True)


class SweepSummary(Callback):
    """Counts the points of a sweep and ends it with exit code 1 if any failed."""

    def __init__(self) -> None:
        """Nothing has run."""
        self.points: list[tuple[tuple[str, ...], Path]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of the sweep, for what a sweeper stores there before the first point."""
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note what a point was and where it ran."""
        if job_return.hydra_cfg is not None and job_return.hydra_cfg.hydra.mode == RunMode.MULTIRUN:
            folder = Path(job_return.hydra_cfg.hydra.runtime.output_dir)
            self.points.append((tuple(job_return.overrides or ()), folder))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many points ended and which did not."""
        common = set.intersection(*(set(what) for what, _ in self.points)) if self.points else set()
        failed = [(what, folder) for what, folder in self.points if (folder / FAILURE).is_file()]
        ended = len(self.points) - len(failed)
        print(f"sweep: {ended} of {len(self.points)} points ended, in {config.hydra.sweep.dir}")
        if failed:
            lines = []
            for what, folder in failed:
                own = ", ".join(text for text in what if text not in common) or folder.name
                lines.append(f"{own}: {(folder / FAILURE).read_text().strip()}")
            points = f"{len(failed)} point{'s' * (len(failed) > 1)}"
            sys.exit(f"archzoo-train: {points} of the sweep failed\n  " + "\n  ".join(lines))
