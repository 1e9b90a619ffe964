"""An adapter beside the weights that a run starts from."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.lowrank import Target
from ...layers.lowrank.adapters.adapter import Adapter, Statistics
from ...layers.lowrank.adapters.lora_xs import mean_gradients
from ...zoo.axes.adapters import AdapterSpec, adapter_config, apply_adapter, make_adapter
from ...zoo.network import Network
from ..data import Splits
from ..engine.metrics import loss_for

__all__ = ["gradients_of", "head_is_frozen", "is_preset_of", "put_adapter", "refuse_untrained_head"]

SAMPLES = 50
"""How many training samples an adapter reads that starts from gradients."""


def is_preset_of(spec: AdapterSpec, stored: AdapterSpec | None) -> bool:
    """Whether stored weights hold an adapter of the same preset and settings."""
    return stored is not None and _deciding(spec) == _deciding(stored)


def _deciding(spec: AdapterSpec) -> dict[str, Any]:
    """A preset and its settings, but for those that decide nothing of stored weights."""
    written = adapter_config(spec)
    settings = {"name": written} if isinstance(written, str) else written
    decided = make_adapter(spec).decided()
    free = ("seed", "learning_rate_ratio", "train_also", "total_steps", *decided)
    return {k: v for k, v in settings.items() if k not in free}


def put_adapter(model: Network, spec: AdapterSpec, statistics: Statistics | None) -> dict[str, Any]:
    """Put an adapter beside the weights, and return what it read off them."""
    reads = make_adapter(spec).reads
    controller = apply_adapter(model, spec, statistics=statistics if reads else None)
    assert isinstance(controller.method, Adapter) and model.recipe is not None
    return {"adapter": model.recipe.options["adapter"]} if controller.method.decided() else {}


def head_is_frozen(model: Network) -> bool:
    """Whether nothing of the head is trained."""
    return not any(p.requires_grad for p in model.get_classifier().parameters())


def refuse_untrained_head(model: Network) -> None:
    """Refuse a head that is drawn anew and never trained.

    Raises:
        ValueError: with what trains it.
    """
    if head_is_frozen(model):
        raise ValueError(
            "the data have other classes, so the head is started anew, and the adapter would leave "
            "it as it is drawn; set adapter.train_also=[head]"
        )


def gradients_of(splits: Splits) -> Statistics:
    """Return what reads the mean gradients of a model's targets off a few training samples."""

    def read(model: nn.Module, targets: Mapping[str, Target]) -> Mapping[str, Tensor]:
        count = min(SAMPLES, len(splits.train))
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
        batch = splits.train.__getitems__([(0, int(place)) for place in order[:count]])
        measure, device = loss_for(model), next(model.parameters()).device

        def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            inputs, labels = (part.to(device) for part in batch)
            return measure(net(inputs), labels, 0.0)

        return mean_gradients([batch], loss)(model, targets)

    return read
