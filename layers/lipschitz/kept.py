"""Weights kept for evaluation, with the numbers that they were computed from.

An in-place change through `.data`, as an exponential moving average of ordinary make makes it,
leaves the version counter, the storage and the address of a parameter as they were. So what is
compared is the content, bit by bit: one pass over the parameters of a layer at each call.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["Kept", "readable", "untraced"]


class Kept:
    """Weights and a copy of what they follow from.

    Args:
        key: Whatever the weights depend on besides tensors.
        sources: What they were computed from, by name.
        weights: The weights.
    """

    def __init__(
        self, key: tuple[Any, ...], sources: Mapping[str, Tensor], weights: tuple[Tensor, ...]
    ) -> None:
        """Copy the sources."""
        self.key, self.weights = key, weights
        self.copies = {name: t.detach().clone() for name, t in sources.items()}

    def serves(self, key: tuple[Any, ...], sources: Mapping[str, Tensor]) -> bool:
        """Whether the weights are those of these sources."""
        if key != self.key or sources.keys() != self.copies.keys():
            return False
        first = next(iter(sources.values()))
        if first.is_cuda and torch.cuda.is_current_stream_capturing():
            # Nothing may be read back here; what is captured holds one set of weights in any case.
            return True
        return all(_same_bits(self.copies[name], t) for name, t in sources.items())


def readable(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have plain numbers that can be looked at and compared.

    Those inside `torch.func`, of a subclass, with a tangent or without data do not.
    """
    return all(
        type(t) in (Tensor, nn.Parameter)
        and not t.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)  # type: ignore
        and (forward_ad._current_level < 0 or forward_ad.unpack_dual(t).tangent is None)
        for t in tensors.values()
    )


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Keep what runs out of a graph of `torch.jit.trace`: its results are constants there."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[arg-type]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.device != b.device or a.shape != b.shape:
        return False
    size = a.element_size()
    aligned = a.numel() * size % 8 == 0 and b.storage_offset() * size % 8 == 0
    if aligned and a.is_contiguous() and b.is_contiguous():
        # Twice to four times as fast as to compare floats; NaN equals itself, and 0 is not −0.
        a, b = a.view(-1).view(torch.int64), b.detach().view(-1).view(torch.int64)
    return torch.equal(a, b)
