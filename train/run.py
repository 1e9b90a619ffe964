"""One run from its config to its result."""

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from ..zoo.models import build_model
from .callbacks import Callback, LowRankTraining, callbacks
from .check import check_run, model_options
from .checkpoint import load_run
from .config import RunConfig, options_of
from .console import describe
from .data import Splits, data_sets
from .errors import RunError
from .folder import RunFolder, fingerprint, unfinished
from .loggers import loggers
from .loop import Trainer
from .metrics import headline
from .optim import make_optimizer
from .schedule import learning_rate_factor
from .world import World, connect, disconnect

__all__ = ["run"]


def run(config: RunConfig) -> float:
    """Train as a config says and return the best validation metric, for a sweeper.

    That is bits per byte for tokens, less is better, and accuracy otherwise, more is better; a
    sweeper must be told which (`hydra.sweeper.direction`).

    Raises:
        RunError: the run cannot start, or stopped; nothing saved is lost.
    """
    check_run(config)
    world = connect(config.trainer.device)
    try:
        return _run(config, world)
    finally:
        disconnect()


def _run(config: RunConfig, world: World) -> float:
    plain = dataclasses.asdict(config)
    # Each process reads its own clock, so the leader decides on the folder.
    run_dir = Path(world.share(str(_choose_folder(config, plain))))
    folder = RunFolder(run_dir, writes=world.leader)
    metric = headline(data_sets[config.data["name"]].kind)
    if config.resume and (ended := folder.read_result()):
        _say(world, f"{run_dir} ended before: {describe(ended['test'])} on the test fold")
        return ended["validation"][metric]

    _prepare_torch(config)
    splits = _load_data(config, world)
    _seed(config.seed)
    try:
        options = model_options(config, splits.shape, splits.num_classes)
        model = build_model(config.model["name"], **options).to(world.device)
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

    if config.resume:
        _resume(config, trainer, world)
    folder.write_text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))
    folder.write_text("data.json", json.dumps(splits.about, indent=2, default=str) + "\n")
    folder.write_environment()
    _say(
        world,
        f"{config.model['name']} ({_count(model)}) on {config.data['name']} "
        f"({len(splits.train):,} / {len(splits.validation):,} / {len(splits.test):,} samples), "
        f"{trainer.total_steps:,} steps on {world.device}, into {run_dir}",
    )
    if model.lowrank is not None:
        _say(world, model.lowrank.summary())
    result = trainer.fit()
    for logger in logged:
        logger.close()
    folder.write_text("result.json", json.dumps(result, indent=2) + "\n")
    _say(world, f"test {describe(result['test'])}; the best model is in {run_dir}")
    return result["validation"][metric]


def _count(model: nn.Module) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{parameters:,} parameters" + (f", {trained:,} trained" * (trained < parameters))


def _choose_folder(config: RunConfig, plain: Mapping[str, Any]) -> Path:
    """The run's folder, or the one that `resume` means."""
    run_dir = Path(config.run_dir)
    if config.resume is None:
        if RunFolder(run_dir).checkpoint.exists():
            raise RunError(
                f"run_dir={run_dir} holds a run already; add resume=auto to go on with it, "
                f"or name another folder"
            )
        return run_dir
    if config.resume != "auto":
        return Path(config.resume)
    wanted = fingerprint(plain)

    def same(path: Path) -> bool:
        other = OmegaConf.to_container(OmegaConf.load(path))
        return (
            isinstance(other, dict) and fingerprint({str(k): v for k, v in other.items()}) == wanted
        )

    return unfinished(run_dir, same) or run_dir


def _resume(config: RunConfig, trainer: Trainer, world: World) -> None:
    """Load the checkpoint; `auto` starts anew where there is none."""
    path = trainer.folder.checkpoint
    if path.is_file() or config.resume != "auto":
        load_run(trainer, path)
        _say(world, f"going on from step {trainer.step} in {trainer.folder.path}")


def _load_data(config: RunConfig, world: World) -> Splits:
    """Read the data; the leader goes first, so that a download happens once."""
    try:
        if not world.leader:
            world.share(None)
        splits = data_sets.build(config.data["name"], **options_of(config.data))
        if world.leader:
            world.share(None)
        return splits
    except ValueError as error:
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
