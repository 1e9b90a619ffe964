"""The depth mix by kernels that read each source once, with a gradient that keeps references only.

Autograd of the definition keeps keys and products for every pair of source and reader, O(L²)
tensors of the stream's size. Here a reader keeps the sources themselves, which exist anyway, and
scalars per token. Sources pass through each reader as outputs, so that the backward pass hands one
growing gradient per source from reader to reader, which adds to it in place where nobody else can
see it (`growing_gradients`):

    d_i     = a_i (⟨g, v_i⟩ − ⟨g, h⟩)                          gradient of s_i
    ∂L/∂v_i = a_i g + d_i (r_i u − (s_i r_i² / D) v_i)
    ∂L/∂u   = Σ d_i r_i v_i

A backward pass that will itself be differentiated goes through the definition, with all that it
keeps.
"""

# Shape letters: D width, S queries, n sources, ... token axes.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, through_definition
from .growing_gradients import allocated_here, may_write, total

__all__ = ["fused_mix", "fused_phase_one", "fused_phase_two", "public_mix"]


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
        alive: As in `mix.mix`.

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
    """Return S times o (…, D), and ℓ (S, …, 1), as `two_phases.phase_one` does for queries (S, D).

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
    """Return `two_phases.merge` of o (…, D), ℓ (…, 1) and a later source; no gradient."""
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
            return along_query, None, None, *map(total, passed, own)
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


def _empty(like: Tensor) -> Tensor:
    return like.new_empty(0)
