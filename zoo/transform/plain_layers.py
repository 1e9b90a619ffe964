"""Exchange factored layers for pairs of plain ones, to run a model on torch's layers alone."""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from ...layers.lowrank import FactoredConv2d, FactoredLinear, Factors, structures
from ...layers.lowrank.replace_module import replace_module
from ..network import Network
from ..recipe import forget

__all__ = ["plain_layers"]

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def plain_layers(model: Model) -> Model:
    """Return a copy in which two `nn.Linear` or `nn.Conv2d` stand for each pair of factors.

    Outputs stay. A factored layer forms the kernels of its two convolutions in every forward pass,
    which a small convolution notices; a plain one has them ready. Layers with another structure, a
    further term or an activation, of rank 0, or with margins that `nn.Conv2d` has no keyword for
    stay as they are, and so do parametrised ones.

    Args:
        model: Left as it is.
    """
    result = copy.deepcopy(model)
    for _, layer, structure in list(structures(result)):
        if not isinstance(structure, Factors) or structure.extra is not None:
            continue
        if structure.between is not None or structure.rank == 0:
            continue
        left, right = (
            structure.left[..., : structure.rank],
            structure.right[..., : structure.rank, :],
        )
        left = structure.scale * left
        if isinstance(layer, FactoredLinear):
            pair = _linear(right, None), _linear(left, layer.bias)
        elif isinstance(layer, FactoredConv2d):
            settings = layer.settings
            moves = settings.unfolding.movements(**settings.arguments())
            try:
                arguments = [move.arguments() for move in moves]
            except ValueError:
                continue  # an even kernel with padding="same"
            groups = settings.unfolding.groups, settings.unfolding.second_groups
            kernels = settings.unfolding.kernels(left, right)
            pair = (
                _conv(kernels[0], None, groups[0], arguments[0]),
                _conv(kernels[1], layer.bias, groups[1], arguments[1]),
            )
        else:
            continue
        replace_module(result, layer, nn.Sequential(*pair).train(layer.training))
        if isinstance(result, Network):
            forget(result, "plain_layers exchanged its factors; save first, exchange after loading")
    return result


def _linear(weight: torch.Tensor, bias: nn.Parameter | None) -> nn.Linear:
    linear: Any = nn.utils.skip_init(
        nn.Linear, weight.shape[1], weight.shape[0], bias is not None,
        device=weight.device, dtype=weight.dtype,
    )  # fmt: skip
    linear.weight.copy_(weight)
    linear.bias = bias
    return linear


def _conv(
    kernel: torch.Tensor, bias: nn.Parameter | None, groups: int, arguments: dict[str, Any]
) -> nn.Conv2d:
    conv: Any = nn.utils.skip_init(
        nn.Conv2d, groups * kernel.shape[1], kernel.shape[0], tuple(kernel.shape[2:]),
        groups=groups, bias=bias is not None, device=kernel.device, dtype=kernel.dtype,
        **arguments,
    )  # fmt: skip
    conv.weight.copy_(kernel)
    conv.bias = bias
    return conv
