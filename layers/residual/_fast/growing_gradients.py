"""Gradients that grow in place from reader to reader, where nobody else can see them.

A reader's backward pass hands each source's gradient to the reader before it, which adds its own
part. Adding in place saves up to a quarter of a backward pass, but the tensor may be in other hands
by then: `torch.autograd.grad` returns it, a hook keeps it, an addition hands it to both its sides.
So a reader writes only to a gradient that a reader allocated, and only while the autograd engine
holds the one reference to it and the one to its memory.
"""

import functools
import sys
from typing import Any

import torch
from torch import Tensor

__all__ = ["allocated_here", "may_write", "total"]


def allocated_here(gradient: Tensor) -> Tensor:
    """Mark a gradient as one that a reader allocated."""
    gradient._of_depth_mix = True  # type: ignore[attr-defined]
    return gradient


def may_write(passed: tuple[Tensor | None, ...]) -> list[bool]:
    """Say which gradients, of those that `backward(ctx, gradient, *passed)` got, it may write to.

    To be called first thing in such a backward pass, whose own references to them are known.
    """
    unseen = _references_of_unseen()
    return [found == unseen for found in _references(passed)]


def total(passed: Tensor | None, own: Tensor | None) -> Tensor | None:
    """Add what a reader was passed for a source and its own part of the gradient."""
    return own if passed is None else passed if own is None else passed + own


def _references(passed: tuple[Tensor | None, ...]) -> list[tuple[int, ...] | None]:
    """Count, for every marked gradient, the references to it and to its memory."""
    return [
        (
            sys.getrefcount(g),  # by Python: hooks, what has captured it
            g._use_count(),  # type: ignore[attr-defined]  # by C++: the engine, graphs
            sys.getrefcount(memory := g.untyped_storage()),
            torch._C._storage_Use_Count(memory._cdata),  # views of it
        )
        if g is not None and getattr(g, "_of_depth_mix", False) and g.is_contiguous()
        else None
        for g in passed
    ]


class _Probe(torch.autograd.Function):
    """A reader that notes how a gradient is referred to which nobody has kept."""

    @staticmethod
    def forward(ctx: Any, notes: list[tuple[int, ...] | None], source: Tensor) -> Any:
        ctx.notes = notes
        ctx.set_materialize_grads(False)
        return source.clone(), source

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *passed: Tensor | None) -> Any:  # type: ignore[override]
        ctx.notes.extend(_references(passed))
        return None, allocated_here(gradient.clone())


@functools.cache
def _references_of_unseen() -> tuple[int, ...] | None:
    """Count as this interpreter and this torch do, by two readers of one source."""
    notes: list[tuple[int, ...] | None] = []
    with torch.inference_mode(False), torch.enable_grad():
        source = torch.ones(1, device="cpu", requires_grad=True)
        first, passed = _Probe.apply(notes, source)  # type: ignore[misc]
        second, _ = _Probe.apply(notes, passed)  # type: ignore[misc]
        torch.autograd.grad(first + second, source, torch.ones(1, device="cpu"))
    return notes[-1]  # of the first reader: the second is passed nothing
