"""Points by their tangents or by their space parts: sums and midpoints in either coordinates.

What joins streams of points needs both, since a network of the ball hands on tangents and one of
the hyperboloid space parts (`space_points` has the map between them).
"""

from typing import Literal

import torch
from torch import Tensor

from ..maths.ball import Curvature
from ..midpoint import midpoint_pool
from ..mobius_addition import mobius_add_tangents
from .space_points import boost, centroid

__all__ = ["PointCoordinates", "add_points", "centre_of_points", "check_points_as"]

PointCoordinates = Literal["tangent", "space"]


def check_points_as(coordinates: str) -> None:
    """Refuse coordinates that points do not have.

    Raises:
        ValueError: neither `tangent` nor `space`.
    """
    if coordinates not in ("tangent", "space"):
        raise ValueError(f"coordinates must be 'tangent' or 'space', got {coordinates!r}")


def add_points(
    left: Tensor, right: Tensor, curvature: Curvature, coordinates: PointCoordinates, dim: int
) -> Tensor:
    """Return the Möbius sum left ⊕ right, which moves `right` by the translation to `left`.

    Args:
        left: Tangents or space parts.
        right: The same, of the same shape.
        curvature: c.
        coordinates: What both and the sum are.
        dim: The axis of D.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    if coordinates == "tangent":
        return mobius_add_tangents(left, right, curvature, dim=dim)
    dtype = torch.promote_types(left.dtype, right.dtype)
    return boost(right.to(dtype), left.to(dtype), curvature, dim=dim)


def centre_of_points(
    points: Tensor, weights: Tensor, curvature: Curvature, coordinates: PointCoordinates, dim: int
) -> Tensor:
    """Return the weighted midpoint over the first axis, which is gone.

    Args:
        points: Tangents or space parts (n, …, D, …).
        weights: Non-negative (n, …) with size 1 on the axis of D.
        curvature: c.
        coordinates: What points and midpoint are.
        dim: The axis of D, counted in `points`.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    if coordinates == "tangent":
        return midpoint_pool(points, curvature, weights, over=0, dim=dim)
    return centroid(points, curvature, weights, over=0, dim=dim)
