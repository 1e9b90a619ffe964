"""The depth mix with a gradient that keeps references only.

Autograd of the definition keeps keys and products for every pair of source and reader, O(L²)
tensors of the stream's size. Here a reader keeps the sources themselves, which exist anyway, and
scalars per token. Sources pass through each reader as outputs, so that the backward pass hands one
growing gradient per source from reader to reader and adds to it in place:

    d_i     = a_i (⟨g, v_i⟩ − ⟨g, h⟩)                          gradient of s_i
    ∂L/∂v_i = a_i g + d_i (r_i u − (s_i r_i² / D) v_i)
    ∂L/∂u   = Σ d_i r_i v_i

Two forms: `fused_mix`, a compiled kernel that reads each source once, and `combine`, plain PyTorch
behind logits that were computed when a source was finished ("push scores").
"""

# Shape letters: B batch, D width, H heads, n sources, ... token or pixel axes.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["combine", "fused_mix"]


def fused_mix(
    sources: Sequence[Tensor],
    query: Tensor,
    eps: float,
    alive: Sequence[Tensor | None],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Mix sources (…, D) by one query (D,) with the compiled kernel.

    Returns:
        h (…, D), and the sources to hand to the next reader.
    """
    bias = sources[0].new_empty(0)
    if any(mask is not None for mask in alive):
        shape = sources[0].shape[:-1]
        zero = bias.new_zeros(())
        columns = [
            (zero if mask is None else zero.masked_fill(~mask.squeeze(-1), -torch.inf))
            for mask in alive
        ]
        bias = torch.stack([column.expand(shape) for column in columns], -1).contiguous()
    query = query.to(sources[0].dtype).contiguous()
    if not torch.is_grad_enabled():
        return _run_kernel(sources, query, bias, eps)[0], tuple(sources)
    mixed, *sources = _FusedMix.apply(query, bias, eps, *sources)
    return mixed, tuple(sources)


def _run_kernel(
    sources: Sequence[Tensor], query: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mixed = torch.empty_like(sources[0])
    weights = mixed.new_empty((*mixed.shape[:-1], len(sources)))
    statistics = torch.empty_like(weights)
    torch.ops.archzoo_attnres.depth_mix(list(sources), query, bias, eps, mixed, weights, statistics)
    return mixed, weights, statistics


class _FusedMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, bias: Tensor, eps: float, *sources: Tensor) -> Any:
        mixed, weights, statistics = _run_kernel(sources, query, bias, eps)
        ctx.save_for_backward(query, weights, statistics, *sources)
        ctx.set_materialize_grads(False)
        return mixed, *sources

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *passed: Tensor | None) -> Any:  # type: ignore[override]
        query, weights, statistics, *sources = ctx.saved_tensors
        if gradient is None:
            return None, None, None, *passed
        before = [_empty(query) if g is None else g.contiguous() for g in passed]
        after = [
            torch.empty_like(v) if g is None or not _is_ours(g) else g
            for v, g in zip(sources, passed, strict=True)
        ]
        along_query = torch.zeros_like(query)
        torch.ops.archzoo_attnres.depth_mix_backward(
            sources, query, weights, statistics, gradient.contiguous(), before, after, along_query
        )
        return along_query, None, None, *map(_mark_ours, after)


def combine(
    weights: Tensor, sources: Sequence[Tensor], channel_dim: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Mix sources (…, D) by weights (n, …) with H on the axis of D, in plain PyTorch.

    Returns:
        h in the shape and dtype of a source, and the sources to hand to the next reader.
    """
    if not torch.is_grad_enabled():
        return _weighted_sum(weights, sources, channel_dim), tuple(sources)
    mixed, *sources = _Combine.apply(weights, channel_dim, *sources)
    return mixed, tuple(sources)


def _by_head(x: Tensor, heads: int, channel_dim: int) -> Tensor:
    return x.unflatten(channel_dim, (heads, -1))


def _weighted_sum(weights: Tensor, sources: Sequence[Tensor], channel_dim: int) -> Tensor:
    heads = weights.shape[channel_dim if channel_dim < 0 else channel_dim + 1]
    inner = -1 if channel_dim < 0 else channel_dim + 1
    mixed = None
    for weight, value in zip(
        weights.unsqueeze(inner if inner < 0 else inner + 1), sources, strict=True
    ):
        split = _by_head(value, heads, channel_dim)
        mixed = weight * split if mixed is None else mixed.addcmul_(weight, split.to(mixed.dtype))
    assert mixed is not None
    return mixed.view(sources[0].shape).to(sources[0].dtype)


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, channel_dim: int, *sources: Tensor) -> Any:
        ctx.save_for_backward(weights, *sources)
        ctx.channel_dim = channel_dim
        ctx.set_materialize_grads(False)
        return _weighted_sum(weights, sources, channel_dim), *sources

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *passed: Tensor | None) -> Any:  # type: ignore[override]
        weights, *sources = ctx.saved_tensors
        if gradient is None:
            return None, None, *passed
        axis = ctx.channel_dim
        heads = weights.shape[axis if axis < 0 else axis + 1]
        inner = -1 if axis < 0 else axis + 1
        split = _by_head(gradient, heads, axis)
        to_weights, after = torch.empty_like(weights), []
        for i, (value, before) in enumerate(zip(sources, passed, strict=True)):
            weight = weights[i].unsqueeze(inner)
            to_weights[i] = (split * _by_head(value, heads, axis)).sum(inner)
            if before is None:
                new = (weight * split).view(value.shape).to(value.dtype)
            else:
                base = _by_head(before, heads, axis)
                new = base if _is_ours(before) else base.clone()
                new = new.addcmul_(weight.to(new.dtype), split.to(new.dtype)).view(value.shape)
            after.append(_mark_ours(new))
        return to_weights, None, *after


# A gradient that reaches a reader through the next reader was allocated there and is seen by no
# one else, so it may be written to. One that comes from anywhere else may be shared: autograd
# hands the same tensor to both sides of an addition.
def _mark_ours(gradient: Tensor) -> Tensor:
    gradient._of_depth_mix = True  # type: ignore[attr-defined]
    return gradient


def _is_ours(gradient: Tensor) -> bool:
    return getattr(gradient, "_of_depth_mix", False)


def _empty(like: Tensor) -> Tensor:
    return like.new_empty(0)
