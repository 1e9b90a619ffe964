"""One run from its config to its result."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .assemble import assemble
from .check import check_run
from .config import RunConfig
from .engine.console import describe
from .engine.loop import Trainer
from .engine.metrics import headline
from .engine.process import World
from .engine.saved.claim_folder import claimed_folder
from .engine.saved.run_folder import RunFolder
from .errors import RunError
from .initial.initial_weights import whole_place
from .start import begin, ended_result, recorded_config
from .user_imports import import_parts

__all__ = ["Ended", "metric_of", "run", "run_to_end"]


class Ended(NamedTuple):
    """A run that has ended: its folder, and what its `result.json` holds."""

    folder: RunFolder
    result: dict[str, Any]


def run(config: RunConfig, given: Collection[str] | None = None, *, sweep: bool = False) -> float:
    """Train as a config says and return the best validation metric, for a sweeper.

    That is bits per byte for tokens, less is better, and accuracy otherwise, more is better; a
    sweeper must be told which (`hydra.sweeper.direction`).

    Args:
        config: The run. With `resume=FOLDER` it is that of the folder, except for what is given.
        given: The keys and groups that the command named; None is all.
        sweep: Whether the run is a point of a sweep, which `resume=auto` knows by its config.

    Raises:
        RunError: the run cannot start, or stopped; nothing saved is lost.
    """
    return metric_of(run_to_end(config, given, sweep=sweep).result)


def run_to_end(
    config: RunConfig, given: Collection[str] | None = None, *, sweep: bool = False
) -> Ended:
    """Train as a config says; see `run`.

    Raises:
        RunError: the run cannot start, or stopped; nothing saved is lost.
    """
    recorded = None if config.resume == "auto" else config.resume
    if recorded is not None:
        config = recorded_config(recorded, config, given)
    config.imports = import_parts(config.imports, recorded)
    config.init = None if config.init is None else whole_place(config.init)
    if config.distill is not None and config.distill["teacher"] is not None:
        config.distill["teacher"] = whole_place(config.distill["teacher"])
    check_run(config)
    with claimed_folder(config, sweep) as (world, folder):
        return _run(config, folder, world)


def metric_of(result: Mapping[str, Any]) -> float:
    """The validation metric of a result: bits per byte for tokens, accuracy otherwise."""
    return result["validation"][headline(result["validation"])]


def _run(config: RunConfig, folder: RunFolder, world: World) -> Ended:
    result = ended_result(folder) if config.resume else None
    if result is None:
        trainer = assemble(config, folder, world)
        begin(trainer, config)
        result = _train(trainer)
    return Ended(folder, result)


def _train(trainer: Trainer) -> dict[str, Any]:
    """Train to the last step, record the result and return it.

    Raises:
        RunError: the run stopped; nothing saved is lost.
    """
    try:
        result = trainer.fit()
    except ValueError as error:
        # A layer's, a method's or a file's word on what it was given. One that a worker process
        # raised holds that process's traceback, and the word in its last line.
        word = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        raise RunError(f"step {trainer.step}: {word}; nothing saved before is lost") from error
    for logger in trainer.loggers:
        trainer.folder.guard(logger.close)
    trainer.world.share(None)  # a run has ended when it has on all processes
    trainer.folder.write_result(result)
    trainer.say(f"test {describe(result['test'])}; the best model is in {trainer.folder.path}")
    return result
