"""What passes over calibration data give beside moments: directions of outputs, and an order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.lowrank import InputMoments, OutputMoments
from .distortion import outputs_of

__all__ = ["Directions", "check_enough", "running_order"]

Forward = Callable[[nn.Module, Any], Any]


@dataclass
class Directions:
    """A loss whose squared gradients are those of random directions of the outputs."""

    forward: Forward
    seed: int

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return Σ v · z over the batch."""
        z = self.forward(model, batch)
        generator = torch.Generator().manual_seed(self.seed)
        self.seed += 1  # every batch its own
        draw = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        return (draw.to(z) * z).sum()


def check_enough(name: str, moments: InputMoments | OutputMoments, rank: int) -> None:
    """Refuse moments of fewer inputs than there are components for them to decide.

    Raises:
        ValueError: naming the layer and both numbers.
    """
    if moments.count < rank:
        raise ValueError(
            f"batches hold {moments.count} inputs of {name}, which cannot decide {rank} "
            f"components; give more batches, or leave the layer out with targets="
        )


def running_order(
    model: nn.Module, names: Sequence[str], data: Sequence[Any], forward: Forward
) -> list[str]:
    """Return layers in the order in which they first run; without data that of the modules."""
    if not data:
        return list(names)
    order: list[str] = []
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: order.append(name) if name not in order else None
        )
        for name in names
    ]
    try:
        outputs_of(model, data[:1], forward)
    finally:
        for handle in handles:
            handle.remove()
    return order
