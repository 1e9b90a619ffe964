"""Refuse a run that cannot work before any data is read."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..zoo.axes.adapters import make_adapter
from ..zoo.axes.lowrank import make_method
from ..zoo.models import build_model, models
from ..zoo.network import image_sides
from ..zoo.registry import Entry, Registry, listed
from .callbacks import callbacks, distillations
from .config import FACTS, RunConfig, TrainerConfig, options_of
from .data import Graph, data_sets
from .engine.loggers import loggers
from .engine.optim import check_optimizer, check_sharing, make_optimizer, without_names
from .engine.schedule import SCHEDULES
from .errors import RunError

__all__ = ["READS", "check_run", "data_facts", "model_options"]

READS = {
    "image": ("image",),
    "features": ("features", "image"),
    "tokens": ("tokens",),
    "nodes": ("nodes",),
    "graph": ("graph", "nodes"),
}
"""What each kind of model can read; a table model flattens an image, a graph has two tasks."""


def check_run(config: RunConfig) -> None:
    """Check names, types, ranges and combinations; build the model on `meta` where that is free.

    Raises:
        RunError: in one line, the key, its value and what to write instead.
    """
    try:
        _check_numbers(dataclasses.asdict(config))
        model = models[config.model["name"]]
        data = data_sets[config.data["name"]]
        given = {k: v for k, v in options_of(config.model).items() if not _unset(k, v)}
        model.check(given)
        data.check(options_of(config.data))
        _check_kinds(model, data)
        _check_trainer(config.trainer, data.kind)
        _check_schedule(config)
        check_optimizer(config.optim)
        check_sharing(config.optim, config.trainer.parallel)
        # Whose parameters it has does not matter, to its options or to a method.
        optimizer = make_optimizer(nn.Linear(1, 1), without_names(config.optim))
        if config.lowrank is not None:
            method = make_method(config.lowrank)
            method.check_optimizer(optimizer)
            if config.trainer.parallel == "fsdp" and method.resizes:
                raise ValueError(
                    f"lowrank={config.lowrank['name']} removes components in training, which "
                    f"trainer.parallel=fsdp cannot; set lowrank.shrink_every=0, or use "
                    f"trainer.parallel=ddp"
                )
        if config.distill is not None:
            how = options_of(config.distill)
            distillations.build(config.distill["name"], None, **how).check_trainer(config.trainer)
        if config.adapter is not None:
            _check_adapter(config, optimizer)
        _check_named("callbacks", config.callbacks, callbacks)
        _check_named("logger", config.logger, loggers)
        for name, options in config.callbacks.items():
            callbacks.build(name, **(options or {}))  # settings out of range, before the training
        with torch.device("meta"):
            trial = build_model(model.name, **_trial_options(config, data))
        if config.trainer.grad_checkpointing:
            trial.set_grad_checkpointing()
    except ValueError as error:
        raise RunError(str(error)) from error


def model_options(
    config: RunConfig, shape: tuple[int, ...], num_classes: int, graph: Graph | None = None
) -> dict[str, Any]:
    """Fill in what the data decides and refuse what contradicts it.

    Args:
        config: The run.
        shape: Of one sample: (C, H, W), (F,), (T,), (1 + candidates,) or ().
        num_classes: Of the data; the vocabulary for tokens, the number of nodes.
        graph: That the samples are nodes of, where it is known.

    Returns:
        Keywords for `build_model`.

    Raises:
        ValueError: a keyword that the data contradicts.
    """
    entry = models[config.model["name"]]
    kind = data_sets[config.data["name"]].kind
    facts = data_facts(kind, shape, num_classes, graph)
    options = {}
    for name, value in options_of(config.model).items():
        if not _unset(name, value):
            options[name] = value
            # A text shorter than the model's context is the one difference that means no mistake.
            known = facts.get(name)
            mismatch = name in facts and not _agree(name, value, known)
            if mismatch and not (name == "context_length" and value > known):
                has = "none" if known is None else known
                raise ValueError(
                    f"model.{name}={value}, but data {config.data['name']} has {has}; "
                    f"leave model.{name} out to follow the data"
                )
        elif name in facts:
            options[name] = facts[name]
    entry.check(options)
    return options | _on_weights(config)


def _trial_options(config: RunConfig, data: Entry) -> dict[str, Any]:
    """Keywords to try a model with: what the data is known to decide, or sizes in its place."""
    known = options_of(config.data)
    if "shape" in data.about:
        chosen = known.get("classes")
        count = data.about["num_classes"] if chosen is None else len(chosen)
        return model_options(config, data.about["shape"], count)
    shape = {
        "image": (3, known.get("img_size") or 32, known.get("img_size") or 32),
        "features": (8,),
        "tokens": (known.get("context_length") or 64,),
        "nodes": (1 + (known.get("negatives") or 1),),
        "graph": (),
    }[data.kind]
    given = {k: v for k, v in options_of(config.model).items() if not _unset(k, v)}
    facts = data_facts(data.kind, shape, 256)
    options = {k: v for k, v in facts.items() if k in models[config.model["name"]].options}
    return options | given | _on_weights(config)


def _on_weights(config: RunConfig) -> dict[str, Any]:
    """Keywords that every model takes: what its weights are made of, or what is beside them."""
    given = {"lowrank": config.lowrank, "adapter": config.adapter}
    return {key: spec for key, spec in given.items() if spec is not None}


def _check_adapter(config: RunConfig, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an adapter beside weights that there are not, or that change themselves."""
    preset = make_adapter(config.adapter)
    name = config.adapter["name"]
    if config.lowrank is not None:
        raise ValueError(
            f"adapter={name} trains beside weights that stay, and lowrank="
            f"{config.lowrank['name']} trains the weights; leave one of them out"
        )
    if config.init is None:
        raise ValueError(
            f"adapter={name} trains beside weights that stay, and there are none: give init=, a "
            f"run, the folder of a saved model, hf-hub:OWNER/NAME or pretrained:NAME"
        )
    preset.check_optimizer(optimizer)
    if config.trainer.parallel == "fsdp" and preset.resizes:
        raise ValueError(
            f"adapter={name} adds components in training, which trainer.parallel=fsdp cannot; use "
            f"trainer.parallel=ddp"
        )


def _check_numbers(config: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse numbers that are not finite anywhere in a config, and seeds that NumPy cannot take."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            _check_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{prefix}{name} must be a finite number, got {value}")
        elif name == "seed" and isinstance(value, int) and not 0 <= value < 2**32:
            raise ValueError(f"{prefix}seed must lie in [0, 2**32), got {value}")


def data_facts(
    kind: str, shape: tuple[int, ...], num_classes: int, graph: Graph | None = None
) -> dict[str, Any]:
    """Return what data decides of a model, by the keywords of builders.

    Args:
        kind: Of the data.
        shape: Of one sample.
        num_classes: Of the data; the vocabulary for tokens, the number of nodes.
        graph: That the samples are nodes of, where it is known.
    """
    if kind == "tokens":
        return {"vocab_size": num_classes, "context_length": shape[0]}
    if kind == "nodes":
        # Candidates are no classes: a model that can tell classes apart predicts links instead.
        return {"num_nodes": num_classes, "num_classes": None, **_sizes(graph)}
    if kind == "graph":
        return {"num_classes": num_classes, **_sizes(graph)}
    facts = {"num_classes": num_classes, "in_features": 1}
    for size in shape:
        facts["in_features"] *= size
    if kind == "image":
        channels, height, width = shape
        facts |= {"in_chans": channels, "img_size": height if height == width else (height, width)}
    return facts


def _sizes(graph: Graph | None) -> dict[str, int]:
    return {} if graph is None else graph.sizes()


def _agree(name: str, value: Any, known: Any) -> bool:
    """Whether a keyword says what the data have; a side alone is a square."""
    if name == "img_size":
        return image_sides(value) == image_sides(known)
    return value == known


def _unset(name: str, value: Any) -> bool:
    return name in FACTS and value is None


def _check_kinds(model: Entry, data: Entry) -> None:
    if data.kind not in READS[model.kind]:
        fitting = [name for name in models.names() if data.kind in READS[models[name].kind]]
        fitting.sort(key=lambda name: models[name].kind != data.kind)  # made for it first
        raise ValueError(
            f"model={model.name} reads {model.kind}, but data={data.name} gives {data.kind}; "
            f"choose a model such as {listed(fitting, 4)}"
        )


def _check_trainer(config: TrainerConfig, kind: str) -> None:
    if (config.epochs is None) == (config.steps is None):
        raise ValueError(
            f"give one of trainer.epochs and trainer.steps, got epochs={config.epochs}, "
            f"steps={config.steps}; leave one out, or set it to null in the config that sets it"
        )
    if config.epochs is not None and not config.epochs > 0:
        raise ValueError(f"trainer.epochs must be above 0, got {config.epochs}")
    least = {
        "steps": 1, "batch_size": 1, "accumulate": 1, "log_every": 1,
        "evaluate_every": 1, "checkpoint_every": 1, "keep_checkpoints": 1,
        "threads": 1, "workers": 0,
        "mixup": 0, "cutmix": 0, "clip_grad": 0, "max_time": 0,
    }  # fmt: skip
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise ValueError(f"trainer.{name} must be at least {bound}, got {value}")
    if not 0.0 <= config.label_smoothing < 1.0:
        raise ValueError(
            f"trainer.label_smoothing must lie in [0, 1), got {config.label_smoothing}"
        )
    choices = {
        "amp": ("off", "bf16", "fp16"),
        "device": ("auto", "cpu", "cuda"),
        "parallel": ("ddp", "fsdp"),
    }
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"trainer.{name} must be one of {', '.join(allowed)}, got {value!r}")
    if config.compile not in (True, False, "blocks"):
        raise ValueError(
            f"trainer.compile must be true, false or blocks, got {config.compile!r}; blocks "
            f"compiles each branch by itself"
        )
    if config.cutmix and kind != "image":
        raise ValueError(f"trainer.cutmix cuts images, but the data gives {kind}; set it to 0")
    if config.mixup and kind in ("tokens", "nodes", "graph"):
        raise ValueError(f"trainer.mixup cannot mix {kind}; set it to 0")


def _check_schedule(config: RunConfig) -> None:
    schedule = config.schedule
    for name in ("warmup", "cooldown", "final"):
        if not 0.0 <= getattr(schedule, name) <= 1.0:
            raise ValueError(f"schedule.{name} must lie in [0, 1], got {getattr(schedule, name)}")
    if schedule.name not in SCHEDULES:
        raise ValueError(
            f"schedule.name must be one of {', '.join(SCHEDULES)}, got {schedule.name!r}"
        )


def _check_named(group: str, chosen: Mapping[str, Any], registry: Registry) -> None:
    for name, options in chosen.items():
        try:
            registry[name].check(options or {})
        except ValueError as error:
            raise ValueError(f"{group}: {error}") from error
