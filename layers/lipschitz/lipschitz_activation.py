"""Activations by what a matrix inequality allows: slopes in [0, 1], one coordinate at a time.

Between blocks any 1-Lipschitz map will do: MaxMin and GroupSort sort groups of coordinates.

Sources: Anil et al. 2019, "Sorting out Lipschitz function approximation", arXiv:1811.05381 (sort).
Differs from it: MaxMin is GroupSort with groups of 2, along any axis.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "GroupSort", "MaxMin", "is_homogeneous", "make_activation"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "softplus": nn.Softplus,
    "logsigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign,
    "tanhshrink": nn.Tanhshrink,
}
"""Every activation allowed inside a block, by name."""

REFUSED = {
    "gelu": "slopes in [-0.1289, 1.1289]",
    "silu": "slopes in [-0.0998, 1.0998]",
    "swish": "slopes in [-0.0998, 1.0998]",
    "mish": "slopes in [-0.1125, 1.0885]",
    "selu": "slopes up to 1.7581",
    "hardswish": "slopes in [-0.5, 1.5]",
    "abs": "slopes of -1",
    "prelu": "a learned slope without bounds",
    "maxmin": "coordinates that depend on one another; put it between blocks",
    "groupsort": "coordinates that depend on one another; put it between blocks",
    "dropout": "a factor above 1 in training",
}


def make_activation(activation: str | nn.Module) -> nn.Module:
    """Return the module of an allowed activation.

    Args:
        activation: A name of `ACTIVATIONS`, or a module of one of their classes.

    Raises:
        ValueError: anything whose slopes are not known to lie in [0, 1].
    """
    if isinstance(activation, str):
        if activation in ACTIVATIONS:
            return ACTIVATIONS[activation]()
        name = activation
    else:
        if type(activation) in ACTIVATIONS.values() and _in_range(activation):
            return activation
        name = type(activation).__name__
    why = REFUSED.get(name.lower(), "slopes not known to lie in [0, 1]")
    if isinstance(activation, nn.Module):
        if "norm" in name.lower():
            why = "a norm layer, which divides by what it reads"
        elif type(activation) in ACTIVATIONS.values():
            why = f"slopes outside [0, 1] as {activation!r}"
    raise ValueError(
        f"activation {name!r} has {why}: no bound holds with it inside a block; "
        f"use one of {', '.join(ACTIVATIONS)}"
    )


def _in_range(activation: nn.Module) -> bool:
    """Whether the settings of an allowed class keep its slopes in [0, 1]."""
    if isinstance(activation, nn.LeakyReLU):
        return 0 <= activation.negative_slope <= 1
    if isinstance(activation, nn.ELU):
        return 0 <= activation.alpha <= 1
    if isinstance(activation, nn.CELU):
        return activation.alpha > 0
    if isinstance(activation, nn.Softplus):
        return activation.beta > 0
    return True


def is_homogeneous(activation: nn.Module) -> bool:
    """Whether σ(t x) = t σ(x) for t > 0, so that multipliers only rescale biases."""
    return isinstance(activation, nn.ReLU | nn.LeakyReLU) and not isinstance(activation, nn.ReLU6)


class GroupSort(nn.Module):
    """Sort groups of coordinates in ascending order; 1-Lipschitz, and norm-preserving gradients.

    Args:
        group_size: Coordinates sorted together, at least 2; the axis must be a multiple of it.
        dim: The axis: 1 for channels of images, -1 for features.

    Raises:
        ValueError: group_size < 2, or at the call an axis that is no multiple of it.
    """

    no_units = (
        "it sorts neighbouring channels, which would have to move together; match networks whose "
        "activations act on each channel alone"
    )

    lipschitz = 1.0

    def __init__(self, group_size: int = 2, *, dim: int = 1) -> None:
        """Keep the sizes."""
        super().__init__()
        if group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {group_size}")
        self.group_size, self.dim = group_size, dim

    def forward(self, x: Tensor) -> Tensor:
        """Sort."""
        if x.shape[self.dim] % self.group_size:
            raise ValueError(
                f"axis {self.dim} of length {x.shape[self.dim]} is no multiple of "
                f"group_size={self.group_size}"
            )
        dim = self.dim % x.dim()
        groups = x.unflatten(dim, (-1, self.group_size))
        if self.group_size == 2:
            one, two = groups.unbind(dim + 1)
            pair = torch.stack([one.minimum(two), one.maximum(two)], dim + 1)
            return pair.flatten(dim, dim + 1)
        return groups.sort(dim + 1).values.flatten(dim, dim + 1)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"group_size={self.group_size}, dim={self.dim}"


class MaxMin(GroupSort):
    """GroupSort in pairs.

    Args:
        dim: The axis: 1 for channels of images, -1 for features.
    """

    def __init__(self, *, dim: int = 1) -> None:
        """Take pairs."""
        super().__init__(2, dim=dim)
