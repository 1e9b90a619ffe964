"""The parts of a run, made from its config: data, model, callbacks, loggers, trainer."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ..zoo.models import build_model
from ..zoo.network import Network
from ..zoo.share.content_digest import sealed, unsealed
from .callbacks import Callback, LowRankTraining, callbacks, distillations
from .check import model_options
from .config import RunConfig, options_of
from .data import Splits, check_folds, check_shares, data_sets
from .engine.checkpoint import seed_generators
from .engine.console import say
from .engine.half_precision import refuse_unset_gradients
from .engine.loggers import loggers
from .engine.loop import Trainer
from .engine.optim import make_optimizer
from .engine.process import World
from .engine.saved.run_folder import RunFolder
from .engine.schedule import learning_rate_factor
from .errors import RunError
from .initial.frozen_teacher import frozen_teacher
from .initial.initial_adapter import gradients_of
from .initial.initial_weights import build_from, initial_place, warn_of_other_fold
from .subject.given_model import ModelPlace

__all__ = ["assemble"]


def assemble(config: RunConfig, folder: RunFolder, world: World) -> Trainer:
    """Read the data and make the trainer of a run, before its first step.

    Raises:
        RunError: the data cannot be read, or the parts do not fit together.
    """
    _prepare_torch(config)
    # A run that goes on has its weights in its checkpoint, whatever it started from.
    fresh = config.init is not None and not folder.checkpoints()
    place = initial_place(config.init) if config.init is not None and fresh else None
    splits = _read_data(config, world)
    seed_generators(config.seed)
    try:
        trainer = _make_trainer(config, splits, folder, world, place)
    except ValueError as error:
        raise RunError(str(error)) from error
    if config.trainer.grad_checkpointing:
        trainer.model.set_grad_checkpointing()
    return trainer


def _make_trainer(
    config: RunConfig, splits: Splits, folder: RunFolder, world: World, place: ModelPlace | None
) -> Trainer:
    options = model_options(
        config, splits.shape, splits.num_classes, splits.graph, splits.vocab_size
    )
    if place is None:
        if config.init is not None:
            options = options | _decided(folder)
        model = build_model(config.model["name"], **options)
    else:
        model, facts = _from_weights(place, config.model["name"], options, splits, world)
        folder.write_text("init.json", sealed(facts))
    if splits.graph is not None:
        model.follow_graph(splits.graph.edges, splits.graph.features)
    model = model.to(world.device)
    model.follow_data(**splits.conventions())
    if world.device.type == "cpu" and len(splits.shape) == 3:
        refuse_unset_gradients(model, torch.zeros(1, *splits.shape), config.trainer.amp)
    called: list[Callback] = [LowRankTraining()] if model.lowrank else []
    if config.distill is not None:
        how = options_of(config.distill)
        kind = distillations[config.distill["name"]]
        free = kind.about.get("any_architecture", False)
        teacher = world.leader_first(
            lambda: frozen_teacher(how["teacher"], model, splits, any_architecture=free)
        )
        called.append(distillations.build(kind.name, teacher, **how))
    called += [callbacks.build(name, **(o or {})) for name, o in config.callbacks.items()]
    about = {"name": config.name, "config": folder.running}
    logged = [
        loggers.build(name, folder.path, about, **(options or {}))
        for name, options in (config.logger.items() if world.leader else ())
    ]
    schedule = vars(config.schedule)
    seed_generators(config.seed + world.rank)  # dropout differs between processes
    return Trainer(
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


def _decided(folder: RunFolder) -> dict[str, Any]:
    """Return what the initial weights decided of a method, since they are not at hand now."""
    file = folder.path / "init.json"
    facts = unsealed(file.read_bytes()) if file.is_file() else {}
    return {key: facts[key] for key in ("lowrank", "adapter") if key in facts}


def _from_weights(
    place: ModelPlace,
    name: str,
    options: Mapping[str, Any],
    splits: Splits,
    world: World,
) -> tuple[Network, dict[str, Any]]:
    """Build the model with the weights of `init=` on every process, and say which they are.

    The leader goes first, so that a download happens once.
    """
    classes, read, kept = splits.about.get("classes"), gradients_of(splits), splits.conventions()
    model, facts = world.leader_first(lambda: build_from(place, name, options, classes, read, kept))
    if world.leader:
        warn_of_other_fold(place, splits.about)
        say(f"init: the weights of {facts['model']} in {facts['init']}")
        if "head" in facts:
            say(facts["head"])
    return model, facts


def _read_data(config: RunConfig, world: World) -> Splits:
    """Read the data; the leader goes first, so that a download happens once.

    Raises:
        RunError: they cannot be read, or some process would get none of a fold or another share.
    """
    try:
        check_shares(config.trainer.batch_size, world.size)
        build = partial(data_sets.build, config.data["name"], **options_of(config.data))
        splits: Splits = world.leader_first(build)
        check_folds(splits, config.trainer.batch_size, config.trainer.accumulate, world.size)
        return splits
    except (ValueError, OSError) as error:  # the latter names its file
        raise RunError(str(error)) from error


def _prepare_torch(config: RunConfig) -> None:
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    if config.trainer.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
