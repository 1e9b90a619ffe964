"""Exchange factored layers for pairs of plain ones, to run a model on torch's layers alone."""

import copy
from typing import TypeVar

from torch import nn

from ...layers.lowrank import (
    FactoredConv2d,
    FactoredLinear,
    Factors,
    stop_sampling,
    structures,
)
from ...layers.lowrank.replace_module import replace_module
from ..network import Network
from ..recipe import forget

__all__ = ["plain_layers"]

Model = TypeVar("Model", bound=nn.Module)


def plain_layers(model: Model) -> Model:
    """Return a copy in which two `nn.Linear` or `nn.Conv2d` stand for each pair of factors.

    Outputs are those of evaluation. A factored layer forms the kernels of its two convolutions in
    every forward pass, which a small convolution notices; a plain one has them ready. An activation
    between two factors stands between the two layers. Layers with another structure, a further
    term, of rank 0, or with margins that `nn.Conv2d` has no keyword for stay as they are, and so do
    parametrised ones.

    Args:
        model: Left as it is.
    """
    result = copy.deepcopy(model)
    stop_sampling(result)
    for _, layer, structure in list(structures(result)):
        factored = isinstance(layer, (FactoredLinear, FactoredConv2d))
        if not factored or not isinstance(structure, Factors) or structure.rank == 0:
            continue
        try:
            pair = layer.to_sequence()
        except ValueError:  # a further term, or an even kernel with padding="same"
            continue
        replace_module(result, layer, pair)
        if isinstance(result, Network):
            forget(result, "plain_layers exchanged its factors; save first, exchange after loading")
    return result
