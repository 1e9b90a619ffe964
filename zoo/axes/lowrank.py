"""The weight axis: names for the methods of `archzoo.layers.lowrank`.

Every model takes one argument `lowrank=`, which is a name, or a mapping with a name, settings of
the method and three that all methods share (`COMMON`):

    create_model("vit_tiny", lowrank="sltrain")
    create_model("vit_tiny", lowrank={"name": "sltrain", "rank": 32, "targets": ["*.branch.*"]})

The model's weights then have a structure, and `model.lowrank` is the controller of what happens to
them in training: `model.lowrank.attach(optimizer)`, or the trainer's `lowrank=`, does it.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...layers import lowrank as layers
from ...layers.lowrank.methods.cola import CoLA
from ...layers.lowrank.methods.compensated import Compensated
from ...layers.lowrank.methods.fixed_ranks import FixedRanks
from ...layers.lowrank.methods.full_rank import Full
from ...layers.lowrank.methods.lost import LOST
from ...layers.lowrank.methods.low_rank import LowRank
from ...layers.lowrank.methods.maestro import Maestro
from ...layers.lowrank.methods.relora import ReLoRA
from ...layers.lowrank.methods.sltrain import SLTrain
from ...layers.lowrank.methods.sst import SST
from ...layers.lowrank.methods.switchlora import SwitchLoRA
from ...layers.lowrank.methods.trp import TRP
from ...layers.lowrank.methods.welore import WeLore
from ..network import Network
from ..recipe import record
from ..registry import Entry, Option, Registry
from .named_settings import NamedSettings

__all__ = [
    "COMMON",
    "LowRankSpec",
    "apply_lowrank",
    "excluded_of",
    "lowrank_config",
    "make_method",
    "merge_lowrank",
    "method_info",
    "methods",
    "saved_lowrank",
]

LowRankSpec = str | Mapping[str, Any]

methods = Registry("low-rank method")
for _name, _build, _source in [
    ("full", Full, "the comparator; no method"),
    ("low_rank", LowRank, "arXiv:2505.22922, arXiv:2105.01029"),
    ("maestro", Maestro, "arXiv:2308.14929"),
    ("trp", TRP, "arXiv:1812.02402"),
    ("sltrain", SLTrain, "arXiv:2406.02214"),
    ("lost", LOST, "arXiv:2508.02668"),
    ("cola", CoLA, "arXiv:2502.10940"),
    ("relora", ReLoRA, "arXiv:2307.05695"),
    ("sst", SST, "arXiv:2405.15481"),
    ("switchlora", SwitchLoRA, "arXiv:2406.06564"),
    ("welore", WeLore, "arXiv:2407.11239"),
    ("fixed_ranks", FixedRanks, "what export leaves; no method"),
    ("compensated", Compensated, "what EoRA leaves; no method"),
]:
    methods.register(name=_name, source=_source)(_build)

COMMON = (
    Option("targets", list[str] | None, None),
    Option("learning_rate_ratio", float, 1.0),
    Option("seed", int, 0),
)
"""Settings beside those of every method: patterns on names of weights (None takes all that become
smaller), what multiplies the learning rate of the targets, and the seed of all random choices."""


_spec = NamedSettings("lowrank", methods, COMMON)


def method_info(name: str) -> Entry:
    """Return what the registry knows of a method, with the settings that all share.

    Raises:
        ValueError: no such method; the message names the nearest.
    """
    return _spec.info(name)


def lowrank_config(spec: LowRankSpec) -> str | dict[str, Any]:
    """Write a spec as JSON would hold it: a name, or a mapping with a name and what was changed.

    Raises:
        ValueError: the spec names no registered method, or a setting that it does not take.
    """
    return _spec.written(spec)


def make_method(spec: LowRankSpec) -> layers.Method:
    """Build the method that a spec names, without what all methods share.

    Raises:
        ValueError: an unknown name or setting, or one out of range.
    """
    return _spec.make(spec)


def apply_lowrank(model: Network, spec: LowRankSpec) -> layers.Controller:
    """Give the weights of a model the structure of a method, in place, and note it on the model.

    The classifier and the first layer stay dense unless `targets` names them.

    Args:
        model: Any of the zoo; before it is compiled, sharded or wrapped.
        spec: A name, or a mapping with `name` and settings.

    Returns:
        The controller, which is `model.lowrank` from now on.

    Raises:
        ValueError: an unknown name or setting, one out of range, or weights that it does not fit.
    """
    if model.lowrank is not None:
        raise ValueError(
            f"the model's weights follow {type(model.lowrank.method).__name__} already; "
            f"call merge_lowrank(model) first"
        )
    name, settings = _spec.split(spec)
    common = _spec.shared(settings)
    method = make_method(spec)
    try:
        model.lowrank = layers.reparametrize(model, method, excluded=excluded_of(model), **common)
    except ValueError as error:
        raise ValueError(f"lowrank={name}: {error}") from error
    record(
        model, lowrank=lowrank_config({"name": name, **_spec.split(spec)[1], **method.decided()})
    )
    return model.lowrank


def merge_lowrank(model: Network, *, strict: bool = True) -> list[str]:
    """Make every weight of a model dense again, in place, and forget the method.

    Args:
        model: Changed in place; its outputs stay.
        strict: As in `layers.lowrank.merge`: whether a weight that no matrix equals is refused; if
            one stays, so does the method.

    Returns:
        Names of the weights that became dense.

    Raises:
        ValueError: weights that no matrix equals; the model is then as it was.
    """
    merged = layers.merge(model, strict=strict)
    if not any(layers.structures(model)):
        model.lowrank = None
        record(model, drop=("lowrank", "adapter"))
    return merged


def saved_lowrank(model: nn.Module, spec: LowRankSpec | None) -> str | dict[str, Any] | None:
    """Return the spec that rebuilds the structures that a model has now.

    Some may have become dense since they were made.

    Args:
        model: The model.
        spec: How they were made, as its recipe says.

    Raises:
        ValueError: structures that no spec made.
    """
    found = [name for name, _, _ in layers.structures(model)]
    if spec is None:
        if found:
            raise ValueError(
                f"{found[0]} has a structure that the model's recipe does not know; make it with "
                f"create_model(…, lowrank=…) or apply_lowrank(model, …)"
            )
        return None
    controller = model.lowrank if isinstance(model, Network) else None
    made = [] if controller is None else [name for name, _ in controller.structures()]
    name, settings = _spec.split(spec)
    if set(found) == set(made):
        if controller is None or layers.FROZEN not in controller.skipped.values():
            return lowrank_config(spec)
        # Nothing is frozen in the model that is rebuilt: only the names leave out what was.
        return {"name": name, **settings, "targets": list(controller.targets)}
    if not found:
        return None
    return {"name": name, **settings, "targets": found}


def excluded_of(model: Network) -> tuple[str, ...]:
    """Patterns that stay dense: those of every model, and the model's own first and last layers."""
    own: list[str] = []
    for key in ("classifier", "first_conv"):
        names = model.default_cfg.get(key) or ()
        own += [names] if isinstance(names, str) else names
    return (*layers.EXCLUDED, *own, *(f"{name}.*" for name in own))
