"""Recorded tensors: real memory full of NaN, whose address is the identity of a value."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

__all__ = ["Recorded", "RecordingError", "Store", "address_of", "plain_of", "tensors_of"]


class RecordingError(Exception):
    """The forward cannot be recorded any further."""


class Recorded(Tensor):
    """A tensor whose numbers are on a tape; its memory holds NaN."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse what comes after the recording."""
        raise RecordingError(f"{func} reads a recorded tensor after its recording has ended")


@dataclass
class Store:
    """What lies in one storage now.

    Attributes:
        value: The number of the value on the tape.
        order: Element of the value that lies at each place of the storage; None for all in order.
        keep: A tensor of the storage, which keeps its address from being used again.
    """

    value: int
    order: Tensor | None
    keep: Tensor


def address_of(tensor: Tensor) -> int:
    """Return the identity of the memory of a tensor; 0 where it has none."""
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # sparse, nested and opaque tensors
        return 0


def plain_of(value: Any) -> Any:
    """Return a recorded tensor as a plain one of the same memory."""
    if not isinstance(value, Recorded):
        return value
    plain = torch.empty(0, dtype=value.dtype, device=value.device)
    return plain.set_(value.untyped_storage(), value.storage_offset(), value.size(), value.stride())


def tensors_of(args: Any, kwargs: Any) -> list[Tensor]:
    """Return all tensors among the operands of an operation."""
    return [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
