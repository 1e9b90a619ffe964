"""Which tensors a gradient written by hand takes, and the layouts that compiled kernels know.

Maps are laid out before a hand-written function sees them, by operations that autograd records.
What such a function keeps for its backward pass is then its own input, with the graph that
derivatives of gradients need.
"""

# Shape letters: B batch, D channels on axis 1, ... pixels or nothing.

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ...autocast import without_autocast
from ...fast_path import records_gradients
from ..maths.ball import Curvature

__all__ = [
    "applied",
    "as_forward",
    "by_hand",
    "has_rows",
    "infers",
    "laid_out",
    "matched",
    "tensor_or_none",
]


def by_hand(number: Curvature, *tensors: Tensor) -> bool:
    """Whether gradients written by hand may run; otherwise the definition does.

    They take tensors of one dtype on one device, of which the first holds something, and a number
    that is one number.
    """
    first = tensors[0]
    if not records_gradients(*tensors) or first.is_meta or first.numel() == 0:
        return False
    if isinstance(number, Tensor) and (number.dim() > 1 or number.numel() != 1):
        return False
    dtype, device = first.dtype, first.device
    # A list: a generator is a function call a tensor, which a decoder notices.
    return all([x.dtype == dtype and x.device == device for x in tensors[1:]])


def applied(function: type[torch.autograd.Function], *given: Any) -> Any:
    """Apply a hand-written function; where no gradient is wanted, without a place in the graph."""
    if torch.is_grad_enabled():
        return function.apply(*given)
    return function.forward(_Nothing(), *given)


def infers() -> bool:
    """Whether hand-written code without a gradient may run: none is wanted, nothing follows."""
    return not torch.is_grad_enabled() and records_gradients()


class _Nothing:
    """The context of a forward pass that no backward pass follows."""

    def save_for_backward(self, *kept: Tensor | None) -> None:
        """Keep nothing."""

    def set_materialize_grads(self, value: bool) -> None:
        """Say nothing of gradients that never come."""


def has_rows(x: Tensor) -> bool:
    """Whether a kernel can go over points (…, D) row by row: channels that lie side by side."""
    return 2 <= x.dim() <= 4 and (x.stride(-1) == 1 or x.shape[-1] == 1)


def laid_out(x: Tensor, groups: int = 1, *, like: Tensor | None = None) -> Tensor:
    """Return a map (B, D, …) in a layout that kernels know: as it lies if it may, or contiguous.

    Args:
        x: The map.
        groups: Into how many its channels are split; more than one must lie one after the other.
        like: A laid out map of the same shape whose layout is wanted.
    """
    wanted = x if like is None else like
    last = groups == 1 and wanted.dim() == 4 and not wanted.is_contiguous()
    if last and wanted.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def matched(gradient: Tensor, like: Tensor) -> Tensor:
    """Return a gradient in the layout of a map of its shape and dtype; nothing is recorded."""
    plain = type(gradient) is Tensor and not gradient.is_neg() and not gradient._is_zerotensor()
    if plain and gradient.stride() == like.stride():
        return gradient
    return torch.empty_like(like).copy_(gradient)


def as_forward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a backward pass: autocast is off in it, as it was in the forward pass."""

    @wraps(backward)
    def widened(ctx: Any, *gradients: Tensor) -> Any:
        if not torch.is_autocast_enabled(gradients[0].device.type):
            return backward(ctx, *gradients)
        with without_autocast(gradients[0]):
            return backward(ctx, *gradients)

    return widened


def tensor_or_none(number: Curvature) -> Tensor | None:
    """Return a number that has a gradient, to be kept for the backward pass."""
    return number if isinstance(number, Tensor) else None
