"""The depth mix of all readers of a block at once, and of each reader's own later source.

Phase one needs no activation of the queries' own block, so it reads the finished sources once for
all S queries; phase two is a convex combination of two tensors:

    o_j = Σ_i softmax_i(s_j)_i v_i,   ℓ_j = logsumexp_i(s_j)_i,   σ_j = sigmoid(t_j − ℓ_j)
    h_j = (1 − σ_j) o_j + σ_j p_j

Source: Kimi Team 2026, "Attention Residuals", arXiv:2603.15031, algorithm 1.
"""

# Shape letters: D width, S queries, n sources, ... token axes.

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["merge", "phase_one", "two_phase_mix"]


def two_phase_mix(
    sources: Sequence[Tensor], logits: Tensor, later: Tensor, later_logits: Tensor
) -> Tensor:
    """Mixtures of n finished sources for S queries, each merged with one later source.

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
    """Mixtures o (S, …, D) and levels ℓ (S, …, 1) of the finished sources."""
    weights = logits.softmax(1)
    stacked = torch.stack(list(sources)).to(weights.dtype)
    mixed = torch.einsum("sn...,n...d->s...d", weights.squeeze(-1), stacked)
    return mixed, logits.logsumexp(1)


def merge(mixed: Tensor, level: Tensor, later: Tensor, later_logit: Tensor) -> Tensor:
    """Mixture (1 − σ) o + σ p with σ = sigmoid(t − ℓ)."""
    return torch.lerp(mixed, later.to(mixed.dtype), (later_logit - level).sigmoid())
