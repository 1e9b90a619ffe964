"""The depth mix with a gradient that keeps references only.

Autograd of the definition keeps keys and products for every pair of source and reader, O(L²)
tensors of the stream's size. Here a reader keeps the sources themselves, which exist anyway, and
scalars per token. Sources pass through each reader as outputs, so that the backward pass hands one
growing gradient per source from reader to reader, which adds to it in place where nobody else can
see it (`growing`):

    d_i     = a_i (⟨g, v_i⟩ − ⟨g, h⟩)                          gradient of s_i
    ∂L/∂v_i = a_i g + d_i (r_i u − (s_i r_i² / D) v_i)
    ∂L/∂u   = Σ d_i r_i v_i

Two forms: `fused_mix`, a compiled kernel that reads each source once, and `combine`, plain PyTorch
behind logits that were computed when a source was finished ("push scores"). A backward pass that
will itself be differentiated goes through the definition, with all that it keeps.
"""

# Shape letters: B batch, D width, H heads, n sources, ... token or pixel axes.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fast_path import differentiates_backward, through_definition
from .growing import allocated_here, may_write
from .stream import working_dtype

__all__ = [
    "combine",
    "fused_mix",
    "fused_phase_one",
    "fused_phase_two",
    "public_mix",
    "push_scores",
]


def fused_mix(
    sources: Sequence[Tensor],
    query: Tensor,
    eps: float,
    alive: Sequence[Tensor | None],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Mix sources (…, D) by one query (D,) with the compiled kernel.

    Args:
        sources: n tensors.
        query: u.
        eps: Added to the mean square of a key.
        alive: As in `depth_mix.depth_weights`.

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


def public_mix(sources: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """Mix sources (…, D) on a GPU by the fused operator of flash-linear-attention.

    Its gradient keeps references too. Its naive twin on a CPU is compared with ours in
    `benchmarks/parity.py`.
    """
    from fla.ops.attnres import fused_attnres  # type: ignore[import-not-found]

    query = query.to(sources[0].dtype)
    mixed = fused_attnres(query, list(sources), torch.ones_like(query), rms_eps=eps)
    assert isinstance(mixed, Tensor)  # a tuple only where the weights are asked for
    return mixed


def _run_kernel(
    sources: Sequence[Tensor], query: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mixed = torch.empty_like(sources[0])
    weights = mixed.new_empty((*mixed.shape[:-1], len(sources)))
    statistics = torch.empty_like(weights)
    torch.ops.archzoo_attnres.depth_mix(list(sources), query, bias, eps, mixed, weights, statistics)
    return mixed, weights, statistics


def fused_phase_one(
    sources: Sequence[Tensor], queries: Tensor, eps: float
) -> tuple[list[Tensor], Tensor]:
    """Return S times o (…, D), and ℓ (S, …, 1), as `depth_mix.phase_one` does for queries (S, D).

    There is no gradient.
    """
    first = sources[0]
    # Of the size of all activations here: memory that was used before costs no page faults.
    mixed = [torch.empty_like(first) for _ in queries]
    levels = first.new_empty((len(queries), *first.shape[:-1]))
    queries = queries.to(first.dtype).contiguous()
    torch.ops.archzoo_attnres.phase_one(list(sources), queries, eps, mixed, levels)
    return mixed, levels.unsqueeze(-1)


def fused_phase_two(
    mixed: Tensor, level: Tensor, later: Tensor, query: Tensor, eps: float
) -> Tensor:
    """Return `depth_mix.merge` of o (…, D), ℓ (…, 1) and a later source; no gradient."""
    merged = torch.empty_like(later)
    query = query.to(later.dtype).contiguous()
    torch.ops.archzoo_attnres.phase_two(mixed, level.squeeze(-1), later, query, eps, merged)
    return merged


class _FusedMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, bias: Tensor, eps: float, *sources: Tensor) -> Any:
        mixed, weights, statistics = _run_kernel(sources, query, bias, eps)
        ctx.save_for_backward(query, bias, weights, statistics, *sources)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return mixed, *sources

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *passed: Tensor | None) -> Any:  # type: ignore[override]
        query, bias, weights, statistics, *sources = ctx.saved_tensors
        if gradient is None:
            return None, None, None, *passed
        if differentiates_backward():

            def definition(query: Tensor, *sources: Tensor) -> Tensor:
                return _biased_mix(sources, query, bias, ctx.eps)

            along_query, *own = through_definition(definition, [query, *sources], gradient)
            return along_query, None, None, *map(_total, passed, own)
        writable = may_write(passed)
        before = [_empty(query) if g is None else g.contiguous() for g in passed]
        after = [
            g if g is not None and ours else torch.empty_like(v)
            for v, g, ours in zip(sources, passed, writable, strict=True)
        ]
        along_query = torch.zeros_like(query)
        torch.ops.archzoo_attnres.depth_mix_backward(
            sources, query, weights, statistics, gradient.contiguous(), before, after, along_query
        )
        return along_query, None, None, *map(allocated_here, after)


def _biased_mix(sources: Sequence[Tensor], query: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What the kernel computes; `bias` (…, n) is empty or minus infinity at dead sources."""
    stacked = torch.stack(list(sources), -2)
    logits = (stacked @ query) * torch.rsqrt(stacked.square().mean(-1) + eps)
    weights = (logits + bias if bias.numel() else logits).softmax(-1)
    return (weights.unsqueeze(-1) * stacked).sum(-2)


def _total(passed: Tensor | None, own: Tensor | None) -> Tensor | None:
    """Add what a reader was passed for a source and its own part of the gradient."""
    return own if passed is None else passed if own is None else passed + own


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
            return to_weights, None, *map(_total, passed, own)
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


def _empty(like: Tensor) -> Tensor:
    return like.new_empty(0)
