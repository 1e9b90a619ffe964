"""Hydra's choices for a run, read off signatures: a new part of a run needs no YAML.

Every model, data set, low-rank method, adapter, callback and logger is a choice of its group, with
one typed field per keyword of its builder and the builder's own defaults. YAML in `conf/` holds
only what no signature says.
"""

import secrets
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from ..zoo.axes.adapters import adapter_info, presets
from ..zoo.axes.lowrank import method_info, methods
from ..zoo.models import models
from ..zoo.registry import Entry
from .callbacks import callbacks, distillations
from .config import FACTS, RunConfig
from .data import data_sets
from .engine.loggers import loggers
from .engine.schedule import SCHEDULES
from .sweep import point_name

__all__ = ["choices", "groups", "register_schemas"]


def register_schemas() -> None:
    """Tell Hydra about the run and every part of it that has a name."""
    # Of two runs that start in one second each has a folder.
    OmegaConf.register_new_resolver("draw", _draw, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("point", point_name, replace=True)
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name in models.names():
        store.store(group="model", name=name, node=_schema(models[name], facts=FACTS))
    for name in data_sets.names():
        store.store(group="data", name=name, node=_schema(data_sets[name]))
    for name in methods.names():
        store.store(group="lowrank", name=name, node=_schema(method_info(name), seed="${seed}"))
    for name in distillations.names():
        store.store(group="distill", name=name, node=_schema(distillations[name]))
    for name in presets.names():
        store.store(group="adapter", name=name, node=_schema(adapter_info(name), seed="${seed}"))
    # Several may be chosen, so each has its name as a key of the group.
    for group, registry in {"callbacks": callbacks, "logger": loggers}.items():
        for name in registry.names():
            store.store(group=group, name=name, node={name: _schema(registry[name], named=False)})
    for group in ("lowrank", "distill", "adapter", "callbacks", "logger"):
        store.store(group=group, name="none", node={})
    for name in SCHEDULES:
        store.store(group="schedule", name=name, node={"name": name})
    # The count of steps that it keeps for every vector is what lowrank=switchlora needs.
    store.store(group="optim", name="step_adamw", node={"name": "step_adamw"})
    store.store(group="optim", name="trion", node={"name": "trion"})


def choices(group: str) -> list[str]:
    """List the choices of a group that come from signatures, and not from a file of `conf/`."""
    stored = ConfigStore.instance().repo.get(group, {})
    return [name.removesuffix(".yaml") for name in stored] if isinstance(stored, dict) else []


def groups() -> list[str]:
    """List the groups that have a choice from a signature."""
    return [
        name for name, stored in ConfigStore.instance().repo.items() if isinstance(stored, dict)
    ]


def _draw() -> str:
    """Four hexadecimal digits that no seed decides."""
    return secrets.token_hex(2)


def _schema(
    entry: Entry, *, named: bool = True, facts: Sequence[str] = (), **defaults: Any
) -> type:
    """A dataclass with one typed field per keyword of a builder.

    Args:
        entry: Of a registry.
        named: Whether the name is a field as well, the first.
        facts: Keywords that are None until the data decides on them.
        defaults: Other defaults than the builder's.
    """
    rows: list[Any] = [("name", str, field(default=entry.name))] if named else []
    for option in entry.options.values():
        kind, default = _hydra_type(option.type), defaults.get(option.name, option.default)
        if option.name in facts:
            kind, default = kind | None if kind is not Any else Any, None
        if isinstance(default, (list, tuple, dict)):
            rows.append((option.name, kind, field(default_factory=lambda d=default: _copy(d))))
        else:
            rows.append((option.name, kind, field(default=default)))
    return make_dataclass(entry.name, rows)


def _copy(default: Any) -> Any:
    return dict(default) if isinstance(default, Mapping) else list(default)


def _hydra_type(kind: Any) -> Any:
    """The nearest type that Hydra can check; the registry checks the rest before the run."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        rest = [a for a in arguments if a is not types.NoneType]
        inner = _hydra_type(rest[0]) if len(rest) == 1 else Any
        return inner if inner is Any or len(rest) == len(arguments) else inner | None
    if origin in (tuple, list, Sequence):
        return list[arguments[0]]  # type: ignore[valid-type]
    if origin is not None and issubclass(origin, Mapping):
        return dict[str, Any]
    return kind if kind in (int, float, str, bool) else Any
