"""The one equation of Attention Residuals: a softmax mixture of tensors over depth.

`mix` is the definition, in plain differentiable PyTorch; `attnres` says what the sources and the
queries are. Keys are normalised, values are not; there is no 1/√D.

Source: Kimi Team 2026, "Attention Residuals", arXiv:2603.15031, eq. 1–4.
Differs from it: a source can be left out for single samples; ε, which the paper leaves open, is
1e-6.
"""

# Shape letters: B batch, D width, H heads, n sources, ... token or pixel axes. A weight or logit
# has the shape of a source with H in place of D.

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..mixing import key_statistic
from ..stream import routing, working_dtype

__all__ = ["Competition", "compete", "depth_logits", "depth_weights", "mix"]

Competition = Literal["softmax", "sigmoid"]


def mix(
    sources: Sequence[Tensor],
    query: Tensor,
    *,
    channel_dim: int = -1,
    eps: float = 1e-6,
    heads: int = 1,
    competition: Competition = "softmax",
    alive: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Mixture of sources v_0, …, v_{n-1} under one query u, for each token on its own:

        r_i = (mean_D(v_i²) + ε)^(-1/2)
        s_i = r_i · ⟨u, v_i⟩                    (per head: ⟨·,·⟩ over the head's channels)
        a   = softmax_i(s_i)                    (or sigmoid(s_i), which lets sources not compete)
        h   = Σ_i a_i v_i

    Args:
        sources: n tensors of one shape, D on axis `channel_dim`.
        query: u = γ ⊙ w, broadcastable over a source, D long.
        channel_dim: The axis of D.
        eps: Added to the mean square of a key.
        heads: Groups of channels with weights of their own; divides D.
        competition: `softmax` weights sum to 1 over the sources, `sigmoid` weights lie in (0, 1).
        alive: For each source None, or a mask with size 1 on the axis of D; False takes the
            source out of the mixture. At least one source must be alive for every sample.

    Returns:
        h in the shape and dtype of a source.
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
    """Weights a of a mixture (n, …), H on the axis of D; arguments as in `mix`.

    Their dtype is float32 or the sources' wider one.
    """
    logits = depth_logits(
        sources, query, channel_dim=channel_dim, eps=eps, heads=heads, alive=alive
    )
    return compete(logits, competition)


def depth_logits(
    sources: Sequence[Tensor],
    query: Tensor,
    *,
    channel_dim: int = -1,
    eps: float = 1e-6,
    heads: int = 1,
    alive: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Logits s (n, …), minus infinity for a source that is not alive; arguments as in `mix`."""
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
    """Weights of logits (n, …), by softmax over the sources or sigmoid of each."""
    return routing(logits.softmax(0) if competition == "softmax" else logits.sigmoid())
