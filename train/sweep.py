"""A sweep as a whole: its points that failed, and what it says at its end."""

import contextlib
import functools
import json
import math
import os
import re
import signal
import socket
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..zoo.share.atomic_write import replacing
from .errors import RunError, RunStopped

__all__ = [
    "FAILURE",
    "SweepSummary",
    "forget_failure",
    "number_of_trials",
    "point_name",
    "queue_again",
    "record_failure",
]

FAILURE = "error.txt"
POINTS = ".points"
"""Where in its folder a sweep's points leave word that end in another process."""
LONGEST = 120  # bytes of a point's folder; a file system takes 255


def record_failure(folder: Path, error: RunError) -> None:
    """Leave the error of a point in its folder, unless the disk is full, and say it once."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).write_text(f"{error}\n")
    if not error.said:
        print(f"archzoo train: {folder}: {error}", file=sys.stderr)


def forget_failure(folder: Path) -> None:
    """Remove the error of an earlier try."""
    (folder / FAILURE).unlink(missing_ok=True)


def queue_again(stopped: RunStopped) -> RunError | None:
    """Have submitit queue the job of a point again that its signal before the end has stopped.

    submitit listens to that signal itself, but ends the job wherever it is; now the step is saved.

    Returns:
        Why it is not queued again, or None for a stop that submitit has no part in. Where it is
        queued again this process ends.
    """
    signalled = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    if "SUBMITIT_EXECUTOR" not in os.environ or stopped.by != signalled:
        return None
    from submitit.core.utils import UncompletedJobError  # type: ignore[import-not-found]

    try:
        signal.raise_signal(signal.Signals[signalled])
    except UncompletedJobError as error:
        return RunError(f"{stopped}. {error} See hydra.launcher.max_num_timeout")
    return None


def number_of_trials(sweeper: DictConfig, overrides: Sequence[str]) -> int | None:
    """How many points Optuna's sweeper tries: `n_trials`, or all of a grid that has fewer.

    Args:
        sweeper: Its config; one without `n_trials` tries what the overrides say.
        overrides: Those of the command line.
    """
    trials = sweeper.get("n_trials")
    sampler = OmegaConf.select(sweeper, "sampler._target_") or ""
    if trials is None or not sampler.endswith(".GridSampler"):
        return trials
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    values = {  # of a key that is named twice, the last are tried; a fixed value takes none away
        override.key_or_group: list(override.sweep_string_iterator())
        for override in OverridesParser.create().parse_overrides([*params, *overrides])
        if override.is_discrete_sweep()
    }
    return min(trials, math.prod(map(len, values.values())))


def point_name(number: int, overrides: Sequence[str], varied: Collection[str] | None = None) -> str:
    """The folder of a point: its number, and what it was told, as in `3-model.residual=add,seed=0`.

    Args:
        number: Of the point.
        overrides: Of the point, one value each.
        varied: The keys that differ between points; None is all.
    """
    told = [text for text in overrides if varied is None or text.partition("=")[0] in varied]
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join([text.lstrip("+") for text in told]))
    name = re.sub(r"(?<=[=,])_+|_+(?=,|$)", "", name)
    short = f"{number}-{name}".encode()[:LONGEST].decode(errors="ignore")
    return short.rstrip("-.,")


def _varied(config: DictConfig) -> set[str]:
    """The keys of the command line and of the sweeper that have several values."""
    params = config.hydra.sweeper.get("params") or {}
    parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    return {*map(str, params), *(o.get_key_element() for o in parsed if o.is_sweep_override())}


class SweepSummary(Callback):
    """Counts the points of a sweep and ends it with exit code 1 if any failed.

    A launcher may run points in other processes, and on other machines. There this callback is a
    copy, which leaves word of its point in the folder of the sweep.
    """

    def __init__(self) -> None:
        """Nothing has run."""
        self.points: list[tuple[tuple[str, ...], Path]] = []
        self.failed: list[tuple[tuple[str, ...], Path]] = []
        self.trials: int | None = None
        self.process = _this_process()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of the sweep, for what a sweeper stores there before the first point."""
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        for file in (folder / POINTS).glob("*.json"):  # of an earlier sweep
            file.unlink()
        self.trials = number_of_trials(config.hydra.sweeper, config.hydra.overrides.task)
        named = functools.partial(point_name, varied=_varied(config))
        OmegaConf.register_new_resolver("point", named, replace=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note what a point was and where it ran."""
        if job_return.hydra_cfg is not None and job_return.hydra_cfg.hydra.mode == RunMode.MULTIRUN:
            hydra = job_return.hydra_cfg.hydra
            point = (tuple(job_return.overrides or ()), Path(hydra.runtime.output_dir))
            failed = job_return.status == JobStatus.COMPLETED and job_return.return_value is None
            if self.process != _this_process():
                _leave_word(Path(hydra.sweep.dir), hydra.job.num, *point, failed)
                return
            self.points.append(point)
            if failed:
                self.failed.append(point)
            # Optuna's sweeper looks for its best trial after the last one; where all have failed it
            # finds none and raises, before this callback has its word.
            if len(self.points) == self.trials == len(self.failed):
                self.on_multirun_end(job_return.hydra_cfg)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many points ended and which did not."""
        for file in sorted((Path(config.hydra.sweep.dir) / POINTS).glob("*.json")):
            word = json.loads(file.read_text())
            point = (tuple(word["overrides"]), Path(word["folder"]))
            self.points.append(point)
            self.failed += [point] if word["failed"] else []
        common = set.intersection(*(set(what) for what, _ in self.points)) if self.points else set()
        ended = len(self.points) - len(self.failed)
        print(f"sweep: {ended} of {len(self.points)} points ended, in {config.hydra.sweep.dir}")
        if self.failed:
            lines = []
            for what, folder in self.failed:
                own = ", ".join(text for text in what if text not in common) or folder.name
                error = folder / FAILURE
                why = error.read_text().strip() if error.is_file() else ""
                lines.append(f"{own}: {why or 'the disk is full, and what it said is above'}")
            points = f"{len(self.failed)} point{'s' * (len(self.failed) > 1)}"
            sys.exit(f"archzoo train: {points} of the sweep failed\n  " + "\n  ".join(lines))


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _leave_word(
    sweep: Path, number: int, overrides: Sequence[str], folder: Path, failed: bool
) -> None:
    """Write down how a point ended, for the process that summarises the sweep."""
    file = sweep / POINTS / f"{number:06}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    word = {"overrides": overrides, "folder": str(folder), "failed": failed}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(word))
