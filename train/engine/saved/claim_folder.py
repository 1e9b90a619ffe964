"""Which folder a run writes to, and that no other process does."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ....zoo.share.atomic_write import remove_unfinished
from ...config import RunConfig
from ...errors import RunError
from ..end_together import together
from ..process import World, connect, disconnect
from .folder_lock import FolderLock, is_locked
from .resume import difference
from .run_folder import RunFolder

__all__ = ["choose_folder", "claimed_folder"]

NUMBER = re.compile(r"\d+(?=-|$)")
"""What the folder of a sweep's point begins with."""


@contextlib.contextmanager
def claimed_folder(config: RunConfig, sweep: bool) -> Iterator[tuple[World, RunFolder]]:
    """Connect the processes of a run for a block, and keep its folder for them alone.

    The leading process chooses the folder, locks it, and removes what a killed process left
    half-written. The block ends well on all processes or on none.

    Args:
        config: The run.
        sweep: Whether it is a point of a sweep.

    Raises:
        RunError: the folder holds another run, or another process uses it.
    """
    world = connect(config.trainer.device)
    try:
        with together(world), contextlib.ExitStack() as held:
            path = world.lead(lambda: _claim(config, sweep, held))
            plain = {**dataclasses.asdict(config), "run_dir": str(path)}
            yield world, RunFolder(path, world.leader, plain)
    finally:
        disconnect()


def _claim(config: RunConfig, sweep: bool, held: contextlib.ExitStack) -> Path:
    """Choose the folder of a run and lock it for as long as what is held."""
    path = choose_folder(config, sweep)
    held.callback(FolderLock(path).release)
    for folder in (path, path / "checkpoints"):
        remove_unfinished(folder)
    return path


def choose_folder(config: RunConfig, sweep: bool) -> Path:
    """Return the folder of a new run, or of the one that `resume` means.

    `auto` goes on in `run_dir` where that holds this run; otherwise in the newest run beside it
    with the same config that has a checkpoint, no result, and no process that writes to it; where
    there is none it starts anew. A sweep with another grid numbers its points anew, so there a
    point is any folder of the sweep with its config, ended or not.

    Raises:
        RunError: the folder holds a run and there is no `resume`, or another run.
    """
    run_dir, plain = Path(config.run_dir), dataclasses.asdict(config)
    here = RunFolder(run_dir)
    if config.resume is None:
        if here.holds_run():
            raise RunError(
                f"run_dir={run_dir} holds a run already; add resume=auto to go on with it, "
                f"or name another folder"
            )
        return run_dir
    if config.resume != "auto":
        return Path(config.resume)
    if here.holds_run():
        why = difference(here.read_config(), plain)
        if why is None:
            return run_dir
        if not sweep:
            raise RunError(f"run_dir={run_dir} holds another run: {why}")
    runs = [run for run in _same_beside(run_dir, plain) if sweep or not run.result.is_file()]
    if runs:
        return max(runs, key=lambda run: run.checkpoints()[0].stat().st_mtime).path
    return _next_number(run_dir) if here.holds_run() else run_dir


def _same_beside(run_dir: Path, plain: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Find the runs beside a folder with a config that may go on as another one, not in use."""
    for path in run_dir.parent.glob("*/config.yaml"):
        run = RunFolder(path.parent)
        if not run.checkpoints() or is_locked(run.path):
            continue
        try:
            recorded = run.read_config()
        except RunError:
            continue  # a damaged neighbour is no run that goes on
        if difference(recorded, plain) is None:
            yield run


def _next_number(run_dir: Path) -> Path:
    """The folder of a point under a number that none beside it has."""
    numbers = [int(found[0]) for p in run_dir.parent.iterdir() if (found := NUMBER.match(p.name))]
    return run_dir.with_name(f"{max(numbers, default=-1) + 1}{NUMBER.sub('', run_dir.name)}")
