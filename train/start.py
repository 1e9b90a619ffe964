"""How a run begins: anew, or with the config and from the newest checkpoint of its folder."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from .config import RunConfig
from .engine.checkpoint import load_run
from .engine.console import describe, say
from .engine.loop import Trainer
from .engine.saved.resume import continued, run_config_of
from .engine.saved.run_folder import RunFolder

__all__ = ["begin", "ended_result", "recorded_config"]


def recorded_config(run: str, asked: RunConfig, given: Collection[str] | None) -> RunConfig:
    """The config of the run that goes on, with what the command may change of it.

    Raises:
        RunError: the folder holds no run, or the command asks for another one.
    """
    recorded = RunFolder(Path(run)).read_config()
    plain = continued(recorded, dataclasses.asdict(asked), given)
    return run_config_of({**plain, "run_dir": run, "resume": run})


def ended_result(folder: RunFolder) -> dict[str, Any] | None:
    """The result of a run that ended, which is said; None where steps are left to be done.

    Raises:
        RunError: the result is damaged, or of another run.
    """
    result = folder.read_result(folder.running)
    if result is None or _is_longer(folder):
        return None
    if folder.writes:
        say(f"{folder.path} ended before: {describe(result['test'])} on the test fold")
    return result


def _is_longer(folder: RunFolder) -> bool:
    """Whether the config now asks for more steps than the run was recorded with."""
    before, now = folder.read_config()["trainer"], folder.running["trainer"]
    return any(before.get(name) != now[name] for name in ("steps", "epochs"))


def begin(trainer: Trainer, config: RunConfig) -> None:
    """Load the checkpoint of a run that goes on, record the start, and say what is trained.

    Raises:
        RunError: the run cannot go on, or the disk refused.
    """
    folder = trainer.folder
    if config.resume and (folder.checkpoints() or config.resume != "auto"):
        _go_on(trainer, config)
    elif folder.config.is_file():  # killed before its first checkpoint
        for logger in trainer.loggers:
            folder.guard(lambda each=logger: each.resume(0))
    folder.write_start(trainer.splits.about, trainer.step)
    _announce(trainer, config)


def _go_on(trainer: Trainer, config: RunConfig) -> None:
    """Load the newest whole checkpoint of the same data."""
    folder = trainer.folder
    if not config.other_data:
        folder.check_data(trainer.splits.about)
    for notice in load_run(trainer, folder.checkpoint):
        trainer.say(notice)
    folder.set_result_aside(trainer.step)
    trainer.say(f"going on from step {trainer.step} in {folder.path}")


def _announce(trainer: Trainer, config: RunConfig) -> None:
    """Say what is trained on what, for how long and where."""
    model, splits = trainer.model, trainer.splits
    trainer.say(
        f"{config.model['name']} ({_count(model)}) on {config.data['name']} "
        f"({len(splits.train):,} to train, {len(splits.validation):,} to validate, "
        f"{len(splits.test):,} to test), "
        f"{trainer.total_steps:,} steps on {trainer.world.device}, into {trainer.folder.path}"
    )
    if model.lowrank is not None:
        trainer.say(model.lowrank.summary())
        if reason := model.lowrank.method.out_of_reach(trainer.total_steps):
            trainer.say(f"lowrank: {reason}")


def _count(model: nn.Module) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{parameters:,} parameters" + (f", {trained:,} trained" * (trained < parameters))
