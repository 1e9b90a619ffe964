"""Means over neighbourhoods, of vectors and of points of a curved space.

| mean | of | is |
| --- | --- | --- |
| `neighbour_mean` | vectors | Â h |
| `tangent_means` | points | exp₀(Â log₀ x) |
| `midpoints` | points | the centre of mass of a row of Â, divided by its sum |

Midpoints move with every isometry, means of tangents with rotations around the origin alone. A
weight is a mass: far points count for more in a midpoint than in the mean of tangents.

Sources: tangents, Chami et al. 2019, arXiv:1910.12933, without attention; midpoints, Chen et al.
2022, arXiv:2105.14686.
"""

# Shape letters: N nodes, D channels.

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..fast_path import faster
from ..hyperbolic import check_curvature, space_points
from ._fast.fused_centroids import fused_centroids
from ._fast.sparse_rows import fused_sum, kept_shares
from .adjacency import Neighbours, neighbour_sum, shares_of
from .centroids import centroids_of_shares

__all__ = ["PointsAs", "midpoints", "neighbour_mean", "tangent_means"]

PointsAs = Literal["tangent", "space"]


def neighbour_mean(h: Tensor, neighbours: Neighbours) -> Tensor:
    """Average features over neighbourhoods: Â h, summed in at least float32.

    Shape:
        (N, D) -> (N, D).
    """
    return _wide(lambda wide: faster(fused_sum, neighbour_sum, wide, neighbours), h)


def tangent_means(
    h: Tensor, neighbours: Neighbours, curvature: float | Tensor, points_as: PointsAs
) -> Tensor:
    """Average points over neighbourhoods by their tangents at the origin.

    Args:
        h: Points (N, D).
        neighbours: Â.
        curvature: c.
        points_as: Whether features are tangents or space parts.

    Raises:
        ValueError: a curvature that is not positive.
    """
    check_curvature(curvature)
    if points_as == "tangent":
        return neighbour_mean(h, neighbours)
    return _wide(
        lambda s: space_points.from_tangent(
            neighbour_mean(space_points.to_tangent(s, curvature), neighbours), curvature
        ),
        h,
    )


def midpoints(
    h: Tensor, neighbours: Neighbours, curvature: float | Tensor, points_as: PointsAs
) -> Tensor:
    """Average points over neighbourhoods by their centres of mass.

    Args:
        h: Points (N, D).
        neighbours: Â; rows that do not sum to one are divided by their sums.
        curvature: c.
        points_as: Whether features are tangents or space parts.

    Raises:
        ValueError: a curvature that is not positive.
    """
    check_curvature(curvature)
    shares = faster(kept_shares, shares_of, neighbours)

    def centres(s: Tensor) -> Tensor:
        return faster(fused_centroids, centroids_of_shares, s, shares, curvature)

    if points_as == "space":
        return _wide(centres, h)
    return _wide(
        lambda t: space_points.to_tangent(
            centres(space_points.from_tangent(t, curvature)), curvature
        ),
        h,
    )


def _wide(function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """Compute in at least float32, and return the dtype of h."""
    with without_autocast(h):
        return function(h.to(torch.promote_types(h.dtype, torch.float32))).to(h.dtype)
