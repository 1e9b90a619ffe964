"""A network without its parametrisations: every Lipschitz layer in plain PyTorch modules."""

import copy
from collections.abc import Callable

from torch import nn

from .layer import LipschitzLayer

__all__ = ["export_plain"]


def export_plain(
    module: nn.Module, finish: Callable[[nn.Module], nn.Module] = lambda made: made
) -> nn.Module:
    """Return a copy of a network in which every Lipschitz layer is its own `export`.

    Outputs are equal; what is left are linear layers, convolutions and activations. Layers that
    work in the frequency domain become circular convolutions for the image size they last saw.

    Args:
        module: A layer or a network, left as it is.
        finish: Returns what stands for an exported layer; it may change it in place.

    Raises:
        ValueError: a layer that has not seen an image and was not told its size.
    """
    if isinstance(module, LipschitzLayer):
        return finish(module.export()).train(module.training)
    # Layers are exported from the original: a copy of them would only be thrown away.
    memo = {id(child): child for child in module.modules() if isinstance(child, LipschitzLayer)}
    twin = copy.deepcopy(module, memo)
    _replace(twin, finish, {})
    return twin


def _replace(
    module: nn.Module,
    finish: Callable[[nn.Module], nn.Module],
    made: dict[nn.Module, nn.Module],
) -> None:
    """Put exports in place; a layer that stands in several places has one."""
    for name, child in list(module._modules.items()):  # `named_children` names each child once
        if isinstance(child, LipschitzLayer):
            if child not in made:
                made[child] = finish(child.export()).train(child.training)
            setattr(module, name, made[child])
        elif child is not None:
            _replace(child, finish, made)
