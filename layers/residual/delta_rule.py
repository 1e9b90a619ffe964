"""The write of Deep Delta Learning: erase what the state holds along a direction, write anew.

State X with m columns of width D, branch output h, gate β in (0, 2), target v (m):

    k   = h / √(‖h‖² + ε²)
    r_j = ⟨k, X_j⟩
    X'  = X + β k (v − r)ᵀ = (I − β k kᵀ) X + β k vᵀ

β = 0 leaves the state, β = 1 replaces the readout, r' = v, and β = 2 reflects it before writing
2 k vᵀ. `compress` reads the m columns as one: c = Σ_j W_j ⊙ X_j.

Source: Zhang et al. 2026, "Deep Delta Learning", arXiv:2601.00417.
Differs from it: nothing; the state is laid out with m before D. The hand-written gradients keep
the state and the branch output, which exist anyway, and m + 1 scalars per token.
"""

# Shape letters: B batch, D width, m columns, ... token axes.

from typing import Any, Literal

import torch
from torch import Tensor

from ..fast_path import differentiates_backward, through_definition
from .fast_path import kernel_reads, records_references
from .stream import routing, working_dtype

__all__ = ["DeltaMode", "compress", "delta_write", "delta_write_definition"]

DeltaMode = Literal["full", "write_only", "erase_only"]


def delta_write_definition(
    state: Tensor,
    branch: Tensor,
    beta: Tensor,
    value: Tensor,
    *,
    mode: DeltaMode = "full",
    eps: float = 1e-5,
    channel_dim: int = -1,
) -> Tensor:
    """Return the state after one delta write.

    Args:
        state: X (…, m, D), or (B, m, D, H, W) for `channel_dim` 1.
        branch: h (…, D), its direction is all that counts.
        beta: β (…, 1), size 1 on the axis of D.
        value: v (…, m), m on the axis of D.
        mode: `write_only` drops r, `erase_only` drops v.
        eps: ε, the guard inside the root.
        channel_dim: The axis of D in `branch`.
    """
    dtype = working_dtype(state)
    columns = channel_dim - 1 if channel_dim < 0 else channel_dim
    axis = channel_dim if channel_dim < 0 else channel_dim + 1
    wide = branch.to(dtype).unsqueeze(columns)
    scale = torch.rsqrt(wide.square().sum(axis, keepdim=True) + eps**2)
    beta, value = beta.to(dtype).unsqueeze(columns), value.to(dtype).unsqueeze(axis)
    # Erasing moves what the state holds; writing adds a multiple of the branch output.
    change = torch.zeros_like(state, dtype=dtype)
    if mode != "write_only":
        direction = routing(scale * wide)
        readout = (direction * state.to(dtype)).sum(axis, keepdim=True)
        change = change - routing(beta) * readout * direction
    if mode != "erase_only":
        change = change + routing(beta * value * scale) * wide
    return state + change.to(state.dtype)


def delta_write(
    state: Tensor,
    branch: Tensor,
    beta: Tensor,
    value: Tensor,
    *,
    mode: DeltaMode = "full",
    eps: float = 1e-5,
    channel_dim: int = -1,
) -> Tensor:
    """Return the state after one delta write, by the compiled kernel where it runs."""
    given = state, branch, beta, value
    if channel_dim == -1 and _of_one_state(*given) and records_references(*given):
        if mode == "erase_only":
            value = torch.zeros_like(value)
        heads = [x.to(state.dtype).contiguous() for x in (beta, value)]
        if kernel_reads("delta", state, branch, *heads):
            return _DeltaWrite.apply(state, branch, *heads, mode != "write_only", eps)  # type: ignore[return-value]
    return delta_write_definition(
        state, branch, beta, value, mode=mode, eps=eps, channel_dim=channel_dim
    )


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
    ) -> Tensor:
        following = torch.empty_like(state)
        readout = state.new_empty((*value.shape[:-1], value.shape[-1] + 1))
        torch.ops.archzoo_delta.delta_write(
            state, branch, beta, value, erase, eps, following, readout
        )
        ctx.save_for_backward(state, branch, beta, value, readout)
        ctx.erase, ctx.eps = erase, eps
        return following

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        saved = ctx.saved_tensors
        if differentiates_backward():

            def definition(*inputs: Tensor) -> Tensor:
                mode = "full" if ctx.erase else "write_only"
                return delta_write_definition(*inputs, mode=mode, eps=ctx.eps)

            found = through_definition(definition, saved[:4], gradients[0])
            return *found, None, None
        results = [torch.empty_like(tensor) for tensor in saved[:4]]
        torch.ops.archzoo_delta.delta_write_backward(
            *saved[:4], ctx.erase, saved[4], gradients[0].contiguous(), *results
        )
        return *results, None, None


def compress(state: Tensor, weight: Tensor, channel_dim: int = -1) -> Tensor:
    """Read m columns as one: Σ_j W_j ⊙ X_j.

    Args:
        state: X (…, m, D), or (B, m, D, H, W) for `channel_dim` 1.
        weight: W (m, D).
        channel_dim: The axis of D in the result.
    """
    if channel_dim == -1:
        weight = weight.to(state.dtype)
        if weight.shape == state.shape[-2:] and records_references(state, weight):
            dense = weight.contiguous()
            if kernel_reads("delta", state, dense):
                return _Compress.apply(state, dense)  # type: ignore[return-value]
        return _sum_columns(state, routing(weight))
    shaped = weight.to(state.dtype).view(*weight.shape, *[1] * (state.dim() - 3))
    return (state * routing(shaped)).sum(1)


def _sum_columns(state: Tensor, weight: Tensor) -> Tensor:
    return (state * weight).sum(-2)


class _Compress(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(state, weight)
        compressed = state.new_empty((*state.shape[:-2], state.shape[-1]))
        torch.ops.archzoo_delta.compress(state, weight, compressed)
        return compressed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        state, weight = ctx.saved_tensors
        if differentiates_backward():
            return tuple(through_definition(_sum_columns, [state, weight], gradients[0]))
        to_state, to_weight = torch.empty_like(state), torch.zeros_like(weight)
        torch.ops.archzoo_delta.compress_backward(
            state, weight, gradients[0].contiguous(), to_state, to_weight
        )
        return to_state, to_weight
