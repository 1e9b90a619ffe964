"""Running statistics of normalisation layers, taken anew after the weights before them changed."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import evaluating
from .input_moments import forward_batch

__all__ = ["reestimate_batch_norm"]


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], Any] = forward_batch,
) -> list[str]:
    """Replace running statistics by the plain mean of those of some batches.

    Only layers with running statistics run in training mode; dropout and the like stay off, as they
    are when the statistics are used. Every batch counts alike: leave out a smaller last one.

    Args:
        model: Its momenta and training flags are as they were afterwards; after an error so are the
            statistics.
        batches: Anything that `forward` takes.
        forward: Calls the model on a batch, on the right device.

    Returns:
        Names of the layers: whatever has `reset_running_stats`, `momentum` and statistics to keep.

    Raises:
        ValueError: no batches, or one without samples, where there is a layer to run them for.
    """
    layers: dict[str, Any] = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "reset_running_stats")
        and hasattr(module, "momentum")
        and getattr(module, "running_mean", None) is not None
    }
    if not layers:
        return []
    momenta = {name: layer.momentum for name, layer in layers.items()}
    before = {name: [b.clone() for b in layer.buffers()] for name, layer in layers.items()}
    handles = [
        layer.register_forward_pre_hook(functools.partial(_refuse_empty, name))
        for name, layer in layers.items()
    ]
    ran = 0
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None  # the cumulative mean
        with evaluating(model, training=layers.values()):
            for batch in batches:
                forward(model, batch)
                ran += 1
        if not ran:
            raise ValueError("batches is empty: there are no statistics to take")
    except BaseException:
        for name, layer in layers.items():
            for buffer, old in zip(layer.buffers(), before[name], strict=True):
                buffer.copy_(old)
        raise
    finally:
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            layer.momentum = momenta[name]
    return list(layers)


def _refuse_empty(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
    # It would count as a batch, though it moved no statistics.
    if isinstance(args[0], Tensor) and args[0].numel() == 0:
        raise ValueError(
            f"{name} was given an empty batch of shape {tuple(args[0].shape)}, which has no "
            f"statistics; leave it out"
        )
