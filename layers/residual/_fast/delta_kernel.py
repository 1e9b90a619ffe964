"""The delta write and the read of its columns by compiled kernels, with gradients written by hand.

They keep the state and the branch output, which exist anyway, and m + 1 scalars per token. Each is
given its definition, through which a gradient goes that will itself be differentiated.
"""

# Shape letters: D width, m columns, ... token axes.

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, through_definition
from .permission import kernel_reads, records_references

__all__ = ["compress_by_kernel", "write_by_kernel"]


def write_by_kernel(
    definition: Callable[..., Tensor],
    state: Tensor,
    branch: Tensor,
    beta: Tensor,
    value: Tensor,
    mode: str,
    eps: float,
) -> Tensor | None:
    """The state after one delta write on tokens, or None where the definition must run."""
    given = state, branch, beta, value
    if not (_of_one_state(*given) and records_references(*given)):
        return None
    if mode == "erase_only":
        value = torch.zeros_like(value)
    heads = [x.to(state.dtype).contiguous() for x in (beta, value)]
    if not kernel_reads("delta", state, branch, *heads):
        return None
    return _DeltaWrite.apply(state, branch, *heads, mode != "write_only", eps, definition)  # type: ignore[return-value]


def compress_by_kernel(
    definition: Callable[[Tensor, Tensor], Tensor], state: Tensor, weight: Tensor
) -> Tensor | None:
    """The columns (…, m, D) read as one by W (m, D), or None where the definition must run."""
    if weight.shape != state.shape[-2:] or not records_references(state, weight):
        return None
    dense = weight.contiguous()
    if not kernel_reads("delta", state, dense):
        return None
    return _Compress.apply(state, dense, definition)  # type: ignore[return-value]


def _of_one_state(state: Tensor, branch: Tensor, beta: Tensor, value: Tensor) -> bool:
    """Whether nothing broadcasts: X (…, m, D), h (…, D), β (…, 1) and v (…, m)."""
    *tokens, m, width = state.shape
    shapes = (*tokens, width), (*tokens, 1), (*tokens, m)
    return all(x.shape == shape for x, shape in zip((branch, beta, value), shapes, strict=True))


class _DeltaWrite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state: Tensor,
        branch: Tensor,
        beta: Tensor,
        value: Tensor,
        erase: bool,
        eps: float,
        definition: Callable[..., Tensor],
    ) -> Tensor:
        following = torch.empty_like(state)
        readout = state.new_empty((*value.shape[:-1], value.shape[-1] + 1))
        torch.ops.archzoo_delta.delta_write(
            state, branch, beta, value, erase, eps, following, readout
        )
        ctx.save_for_backward(state, branch, beta, value, readout)
        ctx.erase, ctx.eps, ctx.definition = erase, eps, definition
        return following

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        saved = ctx.saved_tensors
        if differentiates_backward():
            mode = "full" if ctx.erase else "write_only"
            definition = functools.partial(ctx.definition, mode=mode, eps=ctx.eps)
            found = through_definition(definition, saved[:4], gradients[0])
            return *found, None, None, None
        results = [torch.empty_like(tensor) for tensor in saved[:4]]
        torch.ops.archzoo_delta.delta_write_backward(
            *saved[:4], ctx.erase, saved[4], gradients[0].contiguous(), *results
        )
        return *results, None, None, None


class _Compress(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, state: Tensor, weight: Tensor, definition: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        ctx.definition = definition
        ctx.save_for_backward(state, weight)
        compressed = state.new_empty((*state.shape[:-2], state.shape[-1]))
        torch.ops.archzoo_delta.compress(state, weight, compressed)
        return compressed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        state, weight = ctx.saved_tensors
        if differentiates_backward():
            return *through_definition(ctx.definition, [state, weight], gradients[0]), None
        to_state, to_weight = torch.empty_like(state), torch.zeros_like(weight)
        torch.ops.archzoo_delta.compress_backward(
            state, weight, gradients[0].contiguous(), to_state, to_weight
        )
        return to_state, to_weight, None
