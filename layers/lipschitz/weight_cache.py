"""Weights kept for evaluation, with the numbers that they were computed from.

An in-place change through `.data`, as an exponential moving average of ordinary make makes it,
leaves the version counter, the storage and the address of a parameter as they were. So what is
compared is the content, bit by bit: one pass over the parameters of a layer at each call. On a CPU
`memcmp` makes it, four times as fast as `torch.equal` at 256 KiB and without anything allocated.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["Kept", "numbers", "readable", "untraced"]

memcmp = (ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)).memcmp
memcmp.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of an entry."""


class _Copy:
    """The numbers of a tensor at one time."""

    def __init__(self, t: Tensor) -> None:
        """Copy them, and what is asked of the copy at each call."""
        self.kept = kept = t.detach().clone()
        self.shape, self.stride, self.dtype = kept.shape, kept.stride(), kept.dtype
        self.bytes, self.address = kept.nbytes, kept.data_ptr()
        # Without gaps, equal strides and equal memory are equal numbers.
        self.whole = kept.is_cpu and kept.untyped_storage().nbytes() == self.bytes

    def equals(self, t: Tensor) -> bool:
        """Whether a tensor holds the same bits; NaN equals itself, and 0 is not −0."""
        if t.dtype != self.dtype or t.shape != self.shape or t.device != self.kept.device:
            return False
        address = t.data_ptr()
        if not address:
            return False  # memory that was given back, which nothing may read
        if self.whole and t.stride() == self.stride and not (t.is_neg() or t.is_conj()):
            return memcmp(address, self.address, self.bytes) == 0
        return _same_bits(self.kept, t.detach())


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
        self.copies = {name: _Copy(t) for name, t in sources.items()}

    def serves(self, key: tuple[Any, ...], sources: Mapping[str, Tensor]) -> bool:
        """Whether the weights are those of these sources."""
        if key != self.key or sources.keys() != self.copies.keys():
            return False
        first = next(iter(sources.values()))
        if first.is_cuda and torch.cuda.is_current_stream_capturing():
            # Nothing may be read back here; what is captured holds one set of weights in any case.
            return True
        return all(self.copies[name].equals(t) for name, t in sources.items())


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


def numbers(t: Tensor) -> Tensor | None:
    """Return the numbers of a tensor, those under the wrappers of `torch.func` included.

    To be computed with where `torch._C._DisableFuncTorch` holds. None for a subclass, or a tensor
    without data.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(t):  # type: ignore
        t = torch._C._functorch.get_unwrapped(t)  # type: ignore
    return t.detach() if type(t) in (Tensor, nn.Parameter) and not t.is_meta else None


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
    a, b = (
        (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).resolve_neg()
        for t in (a, b)
    )
    size = a.element_size()
    aligned = a.nbytes % 8 == 0 and b.storage_offset() * size % 8 == 0
    if aligned and a.is_contiguous() and b.is_contiguous():
        # Twice to four times as fast as narrower ones.
        return torch.equal(a.view(-1).view(torch.int64), b.view(-1).view(torch.int64))
    return torch.equal(a.view(INTEGERS[size]), b.view(INTEGERS[size]))
