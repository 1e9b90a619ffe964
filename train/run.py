"""One run from its config to its result."""

import dataclasses
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..zoo.models import build_model
from .callbacks import Callback, LowRankTraining, callbacks
from .check import check_run, model_options
from .config import RunConfig, options_of
from .data import Splits, check_folds, data_sets
from .engine.checkpoint import load_run
from .engine.claim_folder import Claim
from .engine.console import describe
from .engine.end_together import together
from .engine.loggers import loggers
from .engine.loop import Trainer
from .engine.metrics import headline
from .engine.optim import make_optimizer
from .engine.process import World, connect, disconnect
from .engine.resume import continued, run_config_of
from .engine.run_folder import RunFolder
from .engine.schedule import learning_rate_factor
from .errors import RunError
from .user_imports import import_parts

__all__ = ["run"]


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
    recorded = None if config.resume == "auto" else config.resume
    if recorded is not None:
        config = _recorded_config(Path(recorded), config, given)
    config.imports = import_parts(config.imports, recorded)
    check_run(config)
    world = connect(config.trainer.device)
    claim = Claim(config, sweep)
    try:
        with together(world):
            try:
                return _run(config, world, world.lead(claim.take))
            finally:
                claim.release()
    finally:
        disconnect()


def _recorded_config(path: Path, asked: RunConfig, given: Collection[str] | None) -> RunConfig:
    """The config of the run that goes on, with what the command may change of it."""
    recorded = RunFolder(path).read_config()
    plain = continued(recorded, dataclasses.asdict(asked), given)
    return run_config_of({**plain, "run_dir": str(path), "resume": str(path)})


def _run(config: RunConfig, world: World, run_dir: Path) -> float:
    plain = {**dataclasses.asdict(config), "run_dir": str(run_dir)}
    folder = RunFolder(run_dir, writes=world.leader)
    folder.running = plain
    metric = headline(data_sets[config.data["name"]].kind)
    if config.resume and (ended := folder.read_result(plain)) and not _is_longer(folder, plain):
        _say(world, f"{run_dir} ended before: {describe(ended['test'])} on the test fold")
        return ended["validation"][metric]

    _prepare_torch(config)
    splits = _load_data(config, world)
    _seed(config.seed)
    try:
        options = model_options(config, splits.shape, splits.num_classes)
        model = build_model(config.model["name"], **options).to(world.device)
        model.follow_data(**splits.conventions())
        called: list[Callback] = [LowRankTraining()] if config.lowrank else []
        called += [callbacks.build(name, **(o or {})) for name, o in config.callbacks.items()]
        about = {"name": config.name, "config": plain}
        logged = [
            loggers.build(name, folder.path, about, **(options or {}))
            for name, options in (config.logger.items() if world.leader else ())
        ]
        schedule = vars(config.schedule)
        _seed(config.seed + world.rank)  # dropout differs between processes
        trainer = Trainer(
            model,
            splits,
            config.trainer,
            lambda network: make_optimizer(network, config.optim),
            lambda step, total: learning_rate_factor(step, total, **schedule),
            callbacks=called,
            loggers=logged,
            folder=folder,
            world=world,
            seed=config.seed,
        )
    except ValueError as error:
        raise RunError(str(error)) from error
    if config.trainer.grad_checkpointing:
        model.set_grad_checkpointing()

    if config.resume and (folder.checkpoints() or config.resume != "auto"):
        _resume(config, trainer, world)
    elif folder.config.is_file():  # killed before its first checkpoint
        for logger in logged:
            folder.guard(lambda each=logger: each.resume(0))
    folder.write_start(plain, splits.about, trainer.step)
    _say(
        world,
        f"{config.model['name']} ({_count(model)}) on {config.data['name']} "
        f"({len(splits.train):,} to train, {len(splits.validation):,} to validate, "
        f"{len(splits.test):,} to test), "
        f"{trainer.total_steps:,} steps on {world.device}, into {run_dir}",
    )
    if model.lowrank is not None:
        _say(world, model.lowrank.summary())
        if reason := model.lowrank.method.out_of_reach(trainer.total_steps):
            _say(world, f"lowrank: {reason}")
    try:
        result = trainer.fit()
    except ValueError as error:
        # A layer's, a method's or a file's word on what it was given. One that a worker process
        # raised holds that process's traceback, and the word in its last line.
        word = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        raise RunError(f"step {trainer.step}: {word}; nothing saved before is lost") from error
    for logger in logged:
        folder.guard(logger.close)
    world.share(None)  # a run has ended when it has on all processes
    folder.write_result(result)
    _say(world, f"test {describe(result['test'])}; the best model is in {run_dir}")
    return result["validation"][metric]


def _count(model: nn.Module) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{parameters:,} parameters" + (f", {trained:,} trained" * (trained < parameters))


def _is_longer(folder: RunFolder, plain: Mapping[str, Any]) -> bool:
    """Whether a config asks a run that ended for more steps."""
    before, now = folder.read_config()["trainer"], plain["trainer"]
    return any(before.get(name) != now[name] for name in ("steps", "epochs"))


def _resume(config: RunConfig, trainer: Trainer, world: World) -> None:
    """Load the newest whole checkpoint of the same data."""
    folder = trainer.folder
    if not config.other_data:
        folder.check_data(trainer.splits.about)
    for notice in load_run(trainer, folder.checkpoint):
        _say(world, notice)
    folder.set_result_aside(trainer.step)
    _say(world, f"going on from step {trainer.step} in {folder.path}")


def _load_data(config: RunConfig, world: World) -> Splits:
    """Read the data; the leader goes first, so that a download happens once.

    Raises:
        RunError: they cannot be read, or some process would get none of a fold.
    """
    try:
        if not world.leader:
            world.share(None)
        splits = data_sets.build(config.data["name"], **options_of(config.data))
        if world.leader:
            world.share(None)
        check_folds(splits, config.trainer.batch_size, world.size)
        return splits
    except (ValueError, OSError) as error:  # the latter names its file
        raise RunError(str(error)) from error


def _seed(seed: int) -> None:
    """Seed every global generator; the loop draws from torch's, a callback may from the others."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _prepare_torch(config: RunConfig) -> None:
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    if config.trainer.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _say(world: World, text: str) -> None:
    if world.leader:
        print(text, flush=True)
