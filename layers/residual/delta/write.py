"""The write of Deep Delta Learning: erase what the state holds along a direction, write anew.

State X with m columns of width D, branch output h, gate β in (0, 2), target v (m):

    k   = h / √(‖h‖² + ε²)
    r_j = ⟨k, X_j⟩
    X'  = X + β k (v − r)ᵀ = (I − β k kᵀ) X + β k vᵀ

β = 0 leaves the state, β = 1 replaces the readout, r' = v, and β = 2 reflects it before writing
2 k vᵀ. `compress` reads the m columns as one: c = Σ_j W_j ⊙ X_j.

Source: Zhang et al. 2026, "Deep Delta Learning", arXiv:2601.00417.
Differs from it: nothing; the state is laid out with m before D.
"""

# Shape letters: B batch, D width, m columns, ... token axes.

from typing import Literal

import torch
from torch import Tensor

from .._fast.delta_kernel import compress_by_kernel, write_by_kernel
from ..stream import routing, working_dtype

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
    """Return `delta_write_definition` of the same arguments, by the compiled kernel if it runs."""
    given = state, branch, beta, value
    if channel_dim == -1:
        found = write_by_kernel(delta_write_definition, *given, mode, eps)
        if found is not None:
            return found
    return delta_write_definition(*given, mode=mode, eps=eps, channel_dim=channel_dim)


def compress(state: Tensor, weight: Tensor, channel_dim: int = -1) -> Tensor:
    """Read m columns as one: Σ_j W_j ⊙ X_j.

    Args:
        state: X (…, m, D), or (B, m, D, H, W) for `channel_dim` 1.
        weight: W (m, D).
        channel_dim: The axis of D in the result.
    """
    weight = weight.to(state.dtype)
    if channel_dim == -1:
        found = compress_by_kernel(_sum_columns, state, weight)
        return _sum_columns(state, routing(weight)) if found is None else found
    shaped = weight.view(*weight.shape, *[1] * (state.dim() - 3))
    return (state * routing(shaped)).sum(1)


def _sum_columns(state: Tensor, weight: Tensor) -> Tensor:
    return (state * weight).sum(-2)
