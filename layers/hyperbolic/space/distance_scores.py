"""Attention by distances: weights softmax(−g d(q, k)) that are written out.

With Q = [q, −X_q] and K = [k, h_k] one product gives all distances:

    cosh(√c d) − 1 = c (h_q − ⟨Q, K⟩)

Source: Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, §3.6.
Differs from it: from space parts; no kernel computes the inverse cosine of a score, so that memory
grows with T · S, and distances below √ε cosh(R) radii drown in the rounding of the product.
"""

# Shape letters: B batch, H heads, T queries, S keys, D width of a head.

import torch
from torch import Tensor

from ..maths.ball import Curvature
from ..maths.radial import length, squared_angle
from ..maths.space_parts import covector, height, lift

__all__ = ["distance_weights"]


def distance_weights(
    query: Tensor,
    key: Tensor,
    curvature: Curvature,
    *,
    mask: Tensor | None,
    causal: bool,
    gain: Tensor | float,
) -> Tensor:
    """Return softmax(−gain · d(q, k)) over the keys, (B, H, T, S).

    Args:
        query: Space parts (B, H, T, D).
        key: Space parts (B, H, S, D).
        curvature: c.
        mask: As in `scaled_dot_product_attention`; the weights of a query that may see nothing are
            0.
        causal: Whether a token sees those before it and itself only.
        gain: g, broadcasts over the weights.
    """
    product = covector(query, curvature) @ lift(key, curvature).mT
    excess = (curvature * (height(query, curvature) - product)).clamp_min(0.0)
    logits = -gain * length(squared_angle(excess) / curvature)
    if causal:
        seen = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        logits = logits.masked_fill(~seen, -torch.inf)
    if mask is not None:
        masked = mask.dtype == torch.bool
        logits = logits.masked_fill(~mask, -torch.inf) if masked else logits + mask
    alive = (logits > -torch.inf).any(-1, keepdim=True)
    return torch.where(alive, torch.where(alive, logits, 0.0).softmax(-1), 0.0)
