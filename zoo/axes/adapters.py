"""The adapter axis: names for the presets of `archzoo.layers.lowrank.adapters`.

Every model takes one argument `adapter=`, which is a name, or a mapping with a name, settings of
the preset and four that all presets share (`COMMON`):

    create_model("local-dir:BASE", adapter="lora")
    create_model("local-dir:BASE", adapter={"name": "dora", "rank": 4, "train_also": ["head"]})

The weights of the model then stay as they are, and what is trained stands beside them;
`model.lowrank` is the controller of what happens to it in training, as for `lowrank=`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...layers import lowrank as layers
from ...layers.lowrank.adapters.adapter import Adapter, Statistics
from ...layers.lowrank.adapters.adapter import adapt as adapt_weights
from ...layers.lowrank.adapters.allora import ALLoRA
from ...layers.lowrank.adapters.bone import Bone
from ...layers.lowrank.adapters.dora import DoRA
from ...layers.lowrank.adapters.lora import FFALoRA, LoRA, RsLoRA
from ...layers.lowrank.adapters.lora_xs import LoRASB, LoRAXS
from ...layers.lowrank.adapters.lq_lora import LQLoRA
from ...layers.lowrank.adapters.miss import MiSS
from ...layers.lowrank.adapters.nystrom import IntTune, NLoRA, SLoRA
from ...layers.lowrank.adapters.randlora import RandLoRA
from ...layers.lowrank.adapters.scheduled.codyra import CoDyRA
from ...layers.lowrank.adapters.scheduled.dylora import DyLoRA
from ...layers.lowrank.adapters.scheduled.flexora import Flexora
from ...layers.lowrank.adapters.scheduled.increlora import IncreLoRA
from ...layers.lowrank.adapters.scheduled.remix import ReMix
from ...layers.lowrank.adapters.scheduled.sara import SaRA
from ...layers.lowrank.adapters.scheduled.smora import SMoRA
from ...layers.lowrank.adapters.scheduled.snella import SNELLA
from ...layers.lowrank.adapters.svfit import SVFit
from ...layers.lowrank.adapters.tlora import TLoRA
from ..network import Network
from ..recipe import record
from ..registry import Entry, Option, Registry
from .lowrank import excluded_of
from .named_settings import NamedSettings

__all__ = [
    "ADAPTER_COMMON",
    "AdapterSpec",
    "adapter_config",
    "adapter_info",
    "apply_adapter",
    "make_adapter",
    "presets",
    "saved_adapter",
]

AdapterSpec = str | Mapping[str, Any]

presets = Registry("adapter")
for _name, _build, _source in [
    ("lora", LoRA, "arXiv:2106.09685"),
    ("rslora", RsLoRA, "arXiv:2312.03732"),
    ("dora", DoRA, "arXiv:2402.09353"),
    ("ffa_lora", FFALoRA, "arXiv:2403.12313"),
    ("svfit", SVFit, "arXiv:2409.05926"),
    ("lora_xs", LoRAXS, "arXiv:2405.17604"),
    ("lora_sb", LoRASB, "arXiv:2411.19557"),
    ("miss", MiSS, "arXiv:2409.15371"),
    ("bone", Bone, "arXiv:2409.15371"),
    ("dylora", DyLoRA, "arXiv:2210.07558"),
    ("codyra", CoDyRA, "arXiv:2412.01004"),
    ("increlora", IncreLoRA, "arXiv:2308.12043"),
    ("randlora", RandLoRA, "arXiv:2502.00987"),
    ("sara", SaRA, "arXiv:2409.06633"),
    ("nlora", NLoRA, "arXiv:2502.14482"),
    ("slora", SLoRA, "arXiv:2502.14482"),
    ("inttune", IntTune, "arXiv:2502.14482"),
    ("lq_lora", LQLoRA, "arXiv:2311.12023"),
    ("tlora", TLoRA, "arXiv:2501.08727"),
    ("smora", SMoRA, "arXiv:2501.15103"),
    ("remix", ReMix, "arXiv:2603.10160"),
    ("allora", ALLoRA, "arXiv:2410.09692"),
    ("flexora", Flexora, "arXiv:2408.10774"),
    ("snella", SNELLA, "arXiv:2510.24037"),
]:
    presets.register(name=_name, source=_source)(_build)

ADAPTER_COMMON = (
    Option("targets", list[str] | None, None),
    Option("train_also", list[str], []),
    Option("learning_rate_ratio", float, 1.0),
    Option("seed", int, 0),
)
"""Settings beside those of every preset: patterns on names of weights (None takes all that can have
the adapter), patterns on names of what stays trained beside it, what multiplies the learning rate
of the adapter, and the seed of all random choices."""

_spec = NamedSettings("adapter", presets, ADAPTER_COMMON)


def adapter_info(name: str) -> Entry:
    """Return what the registry knows of a preset, with the settings that all share.

    Raises:
        ValueError: no such preset; the message names the nearest.
    """
    return _spec.info(name)


def adapter_config(spec: AdapterSpec) -> str | dict[str, Any]:
    """Write a spec as JSON would hold it: a name, or a mapping with a name and what was changed.

    Raises:
        ValueError: the spec names no registered preset, or a setting that it does not take.
    """
    return _spec.written(spec)


def make_adapter(spec: AdapterSpec) -> Adapter:
    """Build the preset that a spec names, without what all presets share.

    Raises:
        ValueError: an unknown name or setting, or one out of range.
    """
    return _spec.make(spec)


def apply_adapter(
    model: nn.Module, spec: AdapterSpec, *, statistics: Statistics | None = None
) -> layers.Controller:
    """Freeze a model and put an adapter beside its weights, in place.

    On a model of the zoo the adapter is noted, and the classifier and the first layer have none
    unless `targets` names them.

    Args:
        model: Any, with the weights to adapt; before it is compiled, sharded or wrapped.
        spec: A name, or a mapping with `name` and settings.
        statistics: What a preset reads off data before it starts, as for `adapt` of
            `archzoo.layers.lowrank`.

    Returns:
        The controller, which is `model.lowrank` of a model of the zoo from now on.

    Raises:
        ValueError: an unknown name or setting, one out of range, or weights that it does not fit.
    """
    ours = isinstance(model, Network)
    if ours and model.lowrank is not None:
        raise ValueError(
            f"the model's weights follow {type(model.lowrank.method).__name__} already; "
            f"call merge_lowrank(model) first"
        )
    name, settings = _spec.split(spec)
    common, preset = _spec.shared(settings), make_adapter(spec)
    excluded = excluded_of(model) if ours else layers.EXCLUDED
    try:
        controller = adapt_weights(
            model, preset, statistics=statistics, excluded=excluded, **common
        )
    except ValueError as error:
        raise ValueError(f"adapter={name}: {error}") from error
    made = {"name": name, **_spec.split(spec)[1], **preset.decided()}
    controller.spec = adapter_config(made)
    if ours:
        model.lowrank = controller
        record(model, adapter=controller.spec)
    return controller


def saved_adapter(model: Network, spec: AdapterSpec) -> str | dict[str, Any] | None:
    """Return the spec that rebuilds the adapter that a model has now, or None where it has none.

    Args:
        model: The model; some of its weights may have become dense since.
        spec: How the adapter was made, as the recipe says.
    """
    found = [name for name, _, _ in layers.structures(model)]
    if not found:
        return None
    made = [] if model.lowrank is None else [name for name, _ in model.lowrank.structures()]
    if set(found) == set(made):
        return adapter_config(spec)
    name, settings = _spec.split(spec)
    kept = {
        key: {n: v for n, v in value.items() if n in found} if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }  # a mapping is by names of weights
    return {"name": name, **kept, "targets": found}
