"""The depth mix in plain PyTorch behind logits that were computed when a source was finished.

`push_scores` scores a source against all queries to come in one product, `combine` mixes by
weights. Both keep references, as `depth_kernel` does, and take any axis of D and any heads.
"""

# Shape letters: D width, H heads, Q queries, n sources, ... token or pixel axes.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, through_definition
from ..stream import working_dtype
from .growing_gradients import allocated_here, may_write, total

__all__ = ["combine", "push_scores"]


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
    return mixed.reshape(sources[0].shape).to(sources[0].dtype)


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, channel_dim: int, *sources: Tensor) -> Any:
        ctx.save_for_backward(weights, *sources)
        ctx.channel_dim = channel_dim
        ctx.set_materialize_grads(False)
        return _weighted_sum(weights, sources, channel_dim), *sources

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *passed: Tensor | None) -> Any:  # type: ignore[override]
        weights, *sources = ctx.saved_tensors
        axis = ctx.channel_dim
        if gradient is None:
            return None, None, *passed
        if differentiates_backward():

            def definition(weights: Tensor, *sources: Tensor) -> Tensor:
                return _weighted_sum(weights, sources, axis)

            to_weights, *own = through_definition(definition, [weights, *sources], gradient)
            return to_weights, None, *map(total, passed, own)
        writable = may_write(passed)
        heads = weights.shape[axis if axis < 0 else axis + 1]
        inner = -1 if axis < 0 else axis + 1
        split = _by_head(gradient, heads, axis)
        to_weights, after = torch.empty_like(weights), []
        for i, (value, before, ours) in enumerate(zip(sources, passed, writable, strict=True)):
            weight = weights[i].unsqueeze(inner)
            to_weights[i] = (split * _by_head(value, heads, axis)).sum(inner)
            if before is None:
                new = torch.empty_like(value)
                torch.mul(weight, split, out=_by_head(new, heads, axis))
            else:
                new = before if ours else before.clone()
                _by_head(new, heads, axis).addcmul_(weight.to(new.dtype), split.to(new.dtype))
            after.append(allocated_here(new))
        return to_weights, None, *after


def push_scores(
    source: Tensor, queries: Tensor, heads: int, channel_dim: int, eps: float
) -> tuple[Tensor, ...]:
    """Return a finished source's logits under queries (Q, D): Q tensors with H on the axis of D."""
    return _Scores.apply(source, queries, heads, channel_dim, eps).unbind(0)  # type: ignore[attr-defined]


class _Scores(torch.autograd.Function):
    # One product with all queries; kept are the source itself and one statistic per token.
    @staticmethod
    def forward(
        ctx: Any, source: Tensor, queries: Tensor, heads: int, channel_dim: int, eps: float
    ) -> Tensor:
        ctx.sizes = heads, channel_dim, eps
        scores, statistic = _scored(source, queries, heads, channel_dim, eps)
        ctx.save_for_backward(source, queries, statistic)
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        source, queries, statistic = ctx.saved_tensors
        heads, channel_dim, _ = ctx.sizes
        if differentiates_backward():

            def definition(source: Tensor, queries: Tensor) -> Tensor:
                return _scored(source, queries, *ctx.sizes)[0]

            found = through_definition(definition, [source, queries], gradients[0])
            return *found, None, None, None
        value, query = _wide_heads(source, queries, heads, channel_dim)
        gradient = gradients[0] if channel_dim == -1 else gradients[0].movedim(2, -1)
        gradient = gradient * statistic
        to_queries = torch.einsum("q...h,...hd->qhd", gradient, value)
        along = torch.einsum("q...h,qhd->...hd", gradient, query)
        radial = (along * value).mean((-2, -1), keepdim=True) * statistic.unsqueeze(-1).square()
        # D · mean is the sum, and the statistic's own derivative divides by D: they cancel.
        to_source = (along - radial * value).flatten(-2).movedim(-1, channel_dim)
        to_queries = to_queries.flatten(1).to(queries.dtype)
        return to_source.to(source.dtype), to_queries, None, None, None


def _scored(
    source: Tensor, queries: Tensor, heads: int, channel_dim: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the logits (Q, …), H on the axis of D, and r of the source (…, 1)."""
    value, query = _wide_heads(source, queries, heads, channel_dim)
    statistic = torch.rsqrt(value.square().mean((-2, -1), keepdim=True) + eps).squeeze(-1)
    scores = torch.einsum("...hd,qhd->q...h", value, query) * statistic
    return (scores if channel_dim == -1 else scores.movedim(-1, 2)), statistic


def _wide_heads(
    source: Tensor, queries: Tensor, heads: int, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """Return the source (…, H, D / H) and the queries (Q, H, D / H) in the working dtype."""
    dtype = working_dtype(source)
    value = source.to(dtype).movedim(channel_dim, -1).unflatten(-1, (heads, -1))
    return value, queries.to(dtype).unflatten(-1, (heads, -1))
