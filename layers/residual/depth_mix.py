"""The one operator of Attention Residuals: a softmax mixture of tensors over depth.

Sources v_0, …, v_{n-1}, one query u, per token:

    r_i = (mean_D(v_i²) + ε)^(-1/2)
    s_i = r_i · ⟨u, v_i⟩                    (per head: ⟨·,·⟩ over the head's channels)
    a   = softmax_i(s_i)                    (or sigmoid(s_i), which lets sources not compete)
    h   = Σ_i a_i v_i

Keys are normalised, values are not; there is no 1/√D. This file is the definition, in plain
differentiable PyTorch, and its exact evaluation in two phases; `depth_autograd` is the fast form.

Source: Kimi Team 2026, "Attention Residuals", arXiv:2603.15031, eq. 1–4 and algorithm 1.
Differs from it: a source can be left out for single samples; ε, which the paper leaves open, is
1e-6.
"""

# Shape letters: B batch, D width, H heads, S queries, n sources, ... token or pixel axes. A weight
# or logit has the shape of a source with H in place of D.

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .stream import routing, working_dtype

__all__ = ["Competition", "compete", "depth_logits", "depth_mix", "depth_weights", "two_phase_mix"]

Competition = Literal["softmax", "sigmoid"]


def key_statistic(source: Tensor, channel_dim: int, eps: float) -> Tensor:
    """Return r of a source, with size 1 on the axis of D, in float32 or the source's wider dtype.

    Its derivative goes with r³, which float16 cannot hold for r above 40.
    """
    wide = source.to(working_dtype(source))
    return torch.rsqrt(wide.square().mean(channel_dim, keepdim=True) + eps)


def depth_logits(
    sources: Sequence[Tensor],
    query: Tensor,
    *,
    channel_dim: int = -1,
    eps: float = 1e-6,
    heads: int = 1,
    alive: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return s (n, …) in float32 or the sources' wider dtype; arguments as in `depth_weights`."""
    dtype = working_dtype(sources[0])
    query = query.to(dtype)
    logits = []
    for i, value in enumerate(sources):
        value = value.to(dtype)
        products = (value * query).unflatten(channel_dim, (heads, -1))
        inner = channel_dim if channel_dim < 0 else channel_dim + 1
        logit = key_statistic(value, channel_dim, eps) * products.sum(inner)
        mask = None if alive is None else alive[i]
        logits.append(logit if mask is None else logit.masked_fill(~mask, -torch.inf))
    return torch.stack(logits)


def compete(logits: Tensor, competition: Competition) -> Tensor:
    """Turn logits (n, …) into weights."""
    return routing(logits.softmax(0) if competition == "softmax" else logits.sigmoid())


def depth_weights(
    sources: Sequence[Tensor],
    query: Tensor,
    *,
    channel_dim: int = -1,
    eps: float = 1e-6,
    heads: int = 1,
    competition: Competition = "softmax",
    alive: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return the weights over depth, in float32 or the sources' wider dtype.

    Args:
        sources: n tensors of one shape, D on axis `channel_dim`.
        query: γ ⊙ w, broadcastable over a source, D long.
        channel_dim: The axis of D.
        eps: Added to the mean square of a key.
        heads: Groups of channels with weights of their own; divides D.
        competition: `softmax` weights sum to 1 over the sources, `sigmoid` weights lie in (0, 1).
        alive: For each source None, or a mask with size 1 on the axis of D; False takes the
            source out of the mixture. At least one source must be alive for every sample.

    Returns:
        Weights (n, …) with H on the axis of D.
    """
    logits = depth_logits(
        sources, query, channel_dim=channel_dim, eps=eps, heads=heads, alive=alive
    )
    return compete(logits, competition)


def depth_mix(
    sources: Sequence[Tensor],
    query: Tensor,
    *,
    channel_dim: int = -1,
    eps: float = 1e-6,
    heads: int = 1,
    competition: Competition = "softmax",
    alive: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Mix the raw sources by their depth weights; arguments as in `depth_weights`.

    Returns:
        Σ_i a_i v_i in the shape and dtype of a source.
    """
    if len(sources) == 1 and competition == "softmax":
        return sources[0]
    weights = depth_weights(
        sources,
        query,
        channel_dim=channel_dim,
        eps=eps,
        heads=heads,
        competition=competition,
        alive=alive,
    )
    inner = channel_dim if channel_dim < 0 else channel_dim + 1
    mixed = None
    for weight, value in zip(weights.unbind(), sources, strict=True):
        part = value
        if heads > 1:
            weight, part = weight.unsqueeze(inner), value.unflatten(channel_dim, (heads, -1))
        mixed = weight * part if mixed is None else mixed + weight * part
    assert mixed is not None
    if heads > 1:
        first = channel_dim if channel_dim > 0 else channel_dim - 1
        mixed = mixed.flatten(first, first + 1)
    return mixed.to(sources[0].dtype)


def two_phase_mix(
    sources: Sequence[Tensor], logits: Tensor, later: Tensor, later_logits: Tensor
) -> Tensor:
    """Mix n finished sources for S queries at once, then merge one later source into each.

    Phase one needs no activation of the queries' own block, so it reads the finished sources once
    for all S; phase two is a convex combination of two tensors:

        o_j = Σ_i softmax_i(s_j)_i v_i,   ℓ_j = logsumexp_i(s_j)_i,   σ_j = sigmoid(t_j − ℓ_j)
        h_j = (1 − σ_j) o_j + σ_j p_j

    Args:
        sources: n finished sources (…, D).
        logits: s of every query and source (S, n, …, 1).
        later: p_j, what each query sees beside them (S, …, D).
        later_logits: t_j (S, …, 1).

    Returns:
        h (S, …, D), equal to the mixture of n + 1 sources up to rounding.
    """
    mixed, level = phase_one(sources, logits)
    return merge(mixed, level, later, later_logits)


def phase_one(sources: Sequence[Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return o (S, …, D) and ℓ (S, …, 1) of `two_phase_mix`."""
    weights = logits.softmax(1)
    stacked = torch.stack(list(sources)).to(weights.dtype)
    mixed = torch.einsum("sn...,n...d->s...d", weights.squeeze(-1), stacked)
    return mixed, logits.logsumexp(1)


def merge(mixed: Tensor, level: Tensor, later: Tensor, later_logit: Tensor) -> Tensor:
    """Return (1 − σ) o + σ p with σ = sigmoid(t − ℓ), the second phase of `two_phase_mix`."""
    return torch.lerp(mixed, later.to(mixed.dtype), (later_logit - level).sigmoid())
