"""Count what autograd keeps between the forward and the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["saved_bytes"]


def saved_bytes(forward: Callable[[], Tensor], exclude: tuple[Tensor, ...] = ()) -> int:
    """Return the bytes of all storages that a forward pass keeps for its backward pass.

    A storage that several nodes keep counts once; those of `exclude`, such as parameters and
    inputs, which exist anyway, do not count.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in exclude}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(kept.values())
