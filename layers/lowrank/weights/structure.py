"""What a weight matrix is made of: the contract that every factored layer computes through.

A structure stands for one matrix W (..., rows, columns), the weight of a linear map y = W x, or,
through an `Unfolding`, the kernel of a convolution. It owns all parameters that make up W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from .stride_padding import Movement

if TYPE_CHECKING:
    from .unfolding import Unfolding

__all__ = [
    "ConvSettings",
    "FrozenDense",
    "WeightStructure",
    "agreed",
    "assign",
    "no_matrix",
    "own_copy",
    "stored_in",
]


@dataclass(frozen=True)
class ConvSettings:
    """How a convolution moves over its input, and how its kernel unfolds into a matrix."""

    unfolding: Unfolding
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    padding_mode: str

    def arguments(self) -> dict[str, Any]:
        """Return the keywords of `nn.Conv2d` and of `Unfolding.convolve`."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "padding_mode": self.padding_mode,
        }


class WeightStructure(nn.Module):
    """One weight matrix W, made of whatever parameters a subclass owns.

    A subclass implements `dense`, and overrides `linear` and `convolve` where it can do without W.
    `forward` of a layer calls nothing but these three, and none of them changes a tensor in place.

    Attributes:
        shape: (..., rows, columns) of W.
        is_matrix: Whether W exists; false where an activation stands between two factors.
        fixed: Names of its own parameters that are never trained.
    """

    shape: tuple[int, ...]
    is_matrix: bool = True
    fixed: tuple[str, ...] = ()

    def dense(self) -> Tensor:
        """Return W, with a graph to the parameters.

        Raises:
            ValueError: no matrix exists.
        """
        raise NotImplementedError

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x Wᵀ + bias for x (..., columns)."""
        return F.linear(x, self.dense(), bias)

    def convolve(self, x: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Return the convolution of x (B, C, H, W) with the kernel that W unfolds."""
        unfolding = settings.unfolding
        kernel = unfolding.to_kernel(self.dense())
        movement = Movement.of(unfolding.kernel_shape[2:], **settings.arguments())
        return movement.convolve(x, kernel, bias, unfolding.groups)

    @property
    def trained(self) -> bool:
        """Whether any of its parameters has a gradient."""
        # Its own come first: they decide nearly always, and every training step asks.
        own = self._parameters.values()
        return any(p is not None and p.requires_grad for p in own) or any(
            p.requires_grad for p in self.parameters()
        )

    def parameter_count(self) -> int:
        """Return the number of stored numbers, trained or not, without indices."""
        return sum(p.numel() for p in self.parameters())


class FrozenDense(WeightStructure):
    """A whole matrix that is not trained, such as the one that factors are added to.

    Args:
        weight: W.
    """

    fixed = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        """Keep a copy."""
        super().__init__()
        self.shape = tuple(weight.shape)
        # A parameter and not a buffer: DDP would broadcast a buffer before every forward.
        self.weight = nn.Parameter(own_copy(weight), requires_grad=False)

    def dense(self) -> Tensor:
        """Return W."""
        return self.weight


def no_matrix(structure: WeightStructure) -> ValueError:
    """Say that an activation stands in the way."""
    return ValueError(
        f"{type(structure).__name__} has an activation between its factors, so no single matrix "
        f"equals it; keep it factored, or use a method without an activation"
    )


def own_copy(tensor: Tensor) -> Tensor:
    """Return a copy with rows first in memory and nothing beside it.

    `contiguous()` gives a single column of a larger matrix back as it is, a view of all of it,
    which would be kept and which safetensors refuses; sharding takes no columns first.
    """
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def stored_in(parameter: Tensor) -> Tensor:
    """Return all of a tensor, gathered where `fully_shard` cut it; every process must call it."""
    whole = getattr(parameter, "full_tensor", None)
    return parameter.detach() if whole is None else whole().detach()


@torch.no_grad()
def assign(parameter: Tensor, value: Tensor) -> None:
    """Write a whole value into a parameter of the same shape, cut as the parameter is."""
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        value = distribute_tensor(value.to(parameter.dtype), mesh, placements)
    parameter.copy_(value)


def agreed(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Take an SVD from the first process: signs and rotations differ between devices."""
    if distributed.is_available() and distributed.is_initialized():
        for part in parts:
            distributed.broadcast(part, src=0)
    return parts
