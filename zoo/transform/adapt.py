"""An adapter by name beside the weights of any model."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...layers.lowrank import Controller
from ...layers.lowrank.adapters.adapter import Statistics
from ..axes.adapters import AdapterSpec, apply_adapter

__all__ = ["adapt"]


def adapt(
    model: nn.Module,
    preset: AdapterSpec,
    targets: Sequence[str] | None = None,
    train_also: Sequence[str] = (),
    *,
    statistics: Statistics | None = None,
    **settings: Any,
) -> Controller:
    """Freeze a model and put an adapter beside its weights, in place.

        controller = adapt(model, "dora", rank=4, train_also=["head"])
        controller.attach(optimizer)

    Args:
        model: Any, of the zoo, of timm or of your own, with the weights to adapt.
        preset: A name of `archzoo list adapters`, or a mapping with `name` and settings.
        targets: Patterns on names of weights; None takes every one that can have the adapter, but
            for the first and the last layer.
        train_also: Patterns on names of parameters, or of modules around them, that stay trained.
        statistics: What a preset such as `lora_sb` reads off data before it starts.
        settings: Of the preset.

    Raises:
        ValueError: an unknown name or setting, one out of range, a pattern that matches nothing, or
            weights that the adapter does not fit. The model is then as it was.
    """
    if isinstance(train_also, str) or isinstance(targets, str):
        raise ValueError("targets and train_also must be lists of patterns, as in ['head']")
    given: dict[str, Any] = {"name": preset} if isinstance(preset, str) else dict(preset)
    given |= {"train_also": list(train_also), **settings} if train_also else settings
    if targets is not None:
        given["targets"] = list(targets)
    return apply_adapter(model, given, statistics=statistics)
