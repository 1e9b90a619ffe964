"""Taking an adapter off: the weights are again the parameters they were, bit by bit."""

from torch import nn

from ..reparametrize import merge, structures
from ..weights.factored_layers import FactoredConv2d, FactoredLinear
from ..weights.structure import FrozenDense, WeightStructure

__all__ = ["base_of", "remove_adapters"]


def base_of(structure: WeightStructure) -> FrozenDense:
    """Return the frozen weight that a structure stands beside.

    Raises:
        ValueError: a structure that keeps none.
    """
    base = getattr(structure, "extra", None)
    if not isinstance(base, FrozenDense):
        raise ValueError(
            f"{type(structure).__name__} keeps no weight that it stands beside, so there is "
            f"nothing to go back to; merge it instead"
        )
    return base


def remove_adapters(model: nn.Module) -> list[str]:
    """Put the frozen weights in the place of what stands beside them, in place.

    Everything stays frozen; `model.requires_grad_(True)` trains it again. What was trained besides,
    such as a head, stays as it is.

    Returns:
        Names of the weights.

    Raises:
        ValueError: a weight that keeps no base. The model is then as it was.
    """
    found = [(name, module, base_of(s)) for name, module, s in structures(model)]
    for name, module, base in found:
        parameter = name.partition(":")[2]
        if isinstance(module, (FactoredLinear, FactoredConv2d)):
            module.structure = base
        else:
            module.parametrizations[parameter][0].structure = base  # type: ignore[index, union-attr]
    return merge(model, names=[name for name, _, _ in found])
