"""Recentring: attention of points far out, computed around their centroid.

A kernel in half precision loses the digits of points at R radii by a factor cosh²(R). No isometry
changes attention (`attention`), so all points are moved first by the boost that carries a centre to
the origin, and the output is moved back. The result is the same to rounding for any centre that is
fixed, and so are gradients, with the centre detached. A decoder keeps the centre of its prompt: one
that were taken anew would let later tokens change earlier ones, by rounding.
"""

# Shape letters: B batch, H heads, T tokens, D width of a head.

from typing import NamedTuple

import torch
from torch import Tensor

from ..maths.ball import Curvature
from .space_points import centroid, relative_to

__all__ = ["Centre", "around", "by_head", "centre_of"]


class Centre(NamedTuple):
    """Where keys and values lie, by heads: space parts (B, H, 1, D), without gradients."""

    key: Tensor
    value: Tensor


@torch.no_grad()
def centre_of(key: Tensor, value: Tensor, curvature: Curvature) -> Centre:
    """Return the centroids of the tokens of (B, H, T, D), at least one, in at least float32."""
    wide = torch.promote_types(key.dtype, torch.float32)
    key, value = (x.detach().to(wide) for x in (key, value))
    return Centre(*(centroid(x, curvature, over=-2, dim=-1).unsqueeze(-2) for x in (key, value)))


def around(
    centre: Centre, query: Tensor, key: Tensor, value: Tensor, curvature: Curvature
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values as seen from their centres."""
    here, there = centre
    query = relative_to(query, by_head(here, query), curvature)
    return query, relative_to(key, here, curvature), relative_to(value, there, curvature)


def by_head(x: Tensor, query: Tensor) -> Tensor:
    """Repeat heads of keys for all heads of queries that share one."""
    return (
        x if x.shape[1] == query.shape[1] else x.repeat_interleave(query.shape[1] // x.shape[1], 1)
    )
