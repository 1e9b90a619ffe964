"""What a run may say: typed fields, and one choice of `model`, `data` and `lowrank` per name.

The schemas of these groups are made from the signatures of the builders, so a new model, data set
or low-rank method is a choice, with typed fields, without any YAML.
"""

import dataclasses
import secrets
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..zoo.lowrank import method_info, methods
from ..zoo.models import models
from ..zoo.registry import Entry, nearest
from .data import data_sets
from .errors import RunError

__all__ = [
    "FACTS",
    "OptimConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainerConfig",
    "options_of",
    "register_schemas",
    "run_config",
    "unknown_key",
]

FACTS = (
    *("num_classes", "in_chans", "img_size", "in_features", "vocab_size", "context_length"),
    "num_nodes",
)
"""Keywords of a model that follow from the data where the user does not set them."""


@dataclass
class OptimConfig:
    """An optimiser by name, of timm's list or `riemannian_adam` / `riemannian_sgd` of geoopt.

    `options` holds further keywords of that optimiser, such as `betas`.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """Learning rate over time, as a factor of `optim.lr`; see `train/schedule.py`."""

    name: str = "cosine"
    warmup: float = 0.05  # share of all steps
    cooldown: float = 0.2  # share of all steps; WSD only
    final: float = 0.0  # factor at the last step


@dataclass
class TrainerConfig:
    """The loop. Give `epochs` or `steps`; a step is one optimiser step on `accumulate` batches."""

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 64  # over all processes
    accumulate: int = 1
    clip_grad: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix: float = 0.0
    amp: str = "off"  # off, bf16 or fp16
    compile: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    deterministic: bool = False
    device: str = "auto"  # auto, cpu, cuda
    parallel: str = "ddp"  # ddp or fsdp, under torchrun
    threads: int | None = None  # CPU threads of torch; None leaves torch's choice
    workers: int = 0  # processes that load data
    log_every: int = 10  # steps
    evaluate_every: int | None = None  # steps; None is every epoch
    checkpoint_every: int | None = None  # steps; None is at each evaluation
    keep_checkpoints: int = 2  # the newest ones; a damaged one is passed over for the one before it
    max_time: float | None = None  # minutes, after which the run saves and stops with exit code 75
    progress: bool | None = None  # None shows the bar on a terminal only


@dataclass
class RunConfig:
    """Everything a run depends on."""

    name: str = "${model.name}-${data.name}"
    seed: int = 0
    run_dir: str = "runs/${name}/${now:%Y-%m-%d_%H-%M-%S}-${draw:}"
    resume: str | None = None  # auto, or a run folder, whose config is then the default
    other_data: bool = False  # whether a run may go on with data that changed since it began
    model: Any = MISSING
    data: Any = MISSING
    lowrank: Any = None  # what the weights are made of; {} or null leaves them dense
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


def register_schemas() -> None:
    """Tell Hydra about the run, every model, every data set and every low-rank method."""
    # Of two runs that start in one second each has a folder.
    OmegaConf.register_new_resolver("draw", _draw, use_cache=True, replace=True)
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name in models.names():
        store.store(group="model", name=name, node=_schema(models[name], facts=FACTS))
    for name in data_sets.names():
        store.store(group="data", name=name, node=_schema(data_sets[name]))
    for name in methods.names():
        store.store(group="lowrank", name=name, node=_schema(method_info(name), seed="${seed}"))


def _draw() -> str:
    """Four hexadecimal digits that no seed decides."""
    return secrets.token_hex(2)


def run_config(node: DictConfig) -> RunConfig:
    """Resolve a composed config; model, data and lowrank become mappings of builder keywords.

    Raises:
        RunError: a key that the schema does not have, or a reference to nothing.
    """
    _refuse_added(node)
    try:
        config = cast(RunConfig, OmegaConf.to_object(node))
    except OmegaConfBaseException as error:
        said = str(error.msg or error).splitlines()[0]
        raise RunError(f"{error.full_key}: {said}; write a value, or the key of one") from error
    config.model = dataclasses.asdict(config.model)
    config.data = dataclasses.asdict(config.data)
    # What was not chosen from the group, such as a bare name, is left for the check to refuse.
    if dataclasses.is_dataclass(config.lowrank) and not isinstance(config.lowrank, type):
        config.lowrank = dataclasses.asdict(config.lowrank)
    config.lowrank = config.lowrank or None
    return config


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say that a config has no such key, and which are near."""
    group, _, leaf = key.rpartition(".")
    where = f"{group} has" if group else "there is"
    return f"{key}: {where} no key {leaf!r}{nearest(leaf, known) if known else ''}"


def _refuse_added(node: DictConfig, prefix: str = "") -> None:
    """Refuse what `+key=value` added to a schema: Hydra lets it, and nothing would read it.

    Raises:
        RunError: naming the key and the nearest ones.
    """
    kind = OmegaConf.get_type(node)
    known = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in map(str, node):
        if known is not None and key not in known:
            raise RunError(unknown_key(f"{prefix}{key}", known))
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            child = node[key]
            if isinstance(child, DictConfig):
                _refuse_added(child, f"{prefix}{key}.")


def options_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a composed `model` or `data` node into keywords for its builder."""
    return {k: v for k, v in node.items() if k != "name"}


def _schema(entry: Entry, *, facts: Sequence[str] = (), **defaults: Any) -> type:
    """A dataclass with the entry's name and one typed field per keyword.

    Args:
        entry: Of a registry.
        facts: Keywords that are None until the data decides on them.
        defaults: Other defaults than the builder's.
    """
    rows: list[Any] = [("name", str, field(default=entry.name))]
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
