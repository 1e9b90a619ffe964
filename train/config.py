"""What a run may say: typed fields; `train/schemas.py` makes those of the parts that have names."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..zoo.registry import nearest
from .errors import RunError

__all__ = [
    "FACTS",
    "OptimConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainerConfig",
    "options_of",
    "run_config",
    "unknown_key",
]

FACTS = (
    *("num_classes", "in_chans", "img_size", "in_features", "vocab_size", "context_length"),
    *("num_nodes", "num_edges"),
)
"""Keywords of a model that follow from the data where the user does not set them."""


@dataclass
class OptimConfig:
    """An optimiser by name: of timm's list, of geoopt's Riemannian ones, or of ours.

    Those are `riemannian_adam` and `riemannian_sgd`, and `step_adamw`, `projected_adamw` and
    `trion`. `options` holds further keywords of an optimiser, such as `betas`.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """Learning rate over time, as a factor of `optim.lr`; see `train/engine/schedule.py`."""

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
    compile: bool | str = False  # true compiles the model whole, `blocks` each branch by itself
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
    init: str | None = None  # a run or a saved model whose weights it starts from
    imports: list[str] = field(default_factory=list)  # modules with parts of the user's own
    model: Any = MISSING
    data: Any = MISSING
    lowrank: Any = None  # what the weights are made of; {} or null leaves them dense
    distill: Any = None  # the frozen teacher beside which it is trained; {} or null is none
    adapter: Any = None  # what is trained beside the weights of init=; {} or null trains them
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


def run_config(node: DictConfig) -> RunConfig:
    """Resolve a composed config; every part of it becomes a mapping of builder keywords.

    Raises:
        RunError: a key that the schema does not have, or a reference to nothing.
    """
    _refuse_added(node)
    try:
        config = cast(RunConfig, OmegaConf.to_object(node))
    except OmegaConfBaseException as error:
        said = str(error.msg or error).splitlines()[0]
        raise RunError(f"{error.full_key}: {said}; write a value, or the key of one") from error
    for group in ("model", "data", "lowrank", "distill", "adapter", "callbacks", "logger"):
        setattr(config, group, _plain(getattr(config, group)))
    for group in ("lowrank", "distill", "adapter"):
        setattr(config, group, getattr(config, group) or None)
    return config


def _plain(value: Any) -> Any:
    """Turn what Hydra checked by a schema into a mapping; anything else is left for the check."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


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
