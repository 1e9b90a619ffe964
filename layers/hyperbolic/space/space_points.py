"""Points of the hyperboloid by their space parts: pure functions (`maths.space_parts`).

Any vector s is a point, so that nothing is projected or clamped; its distance from the origin is
asinh(√c‖s‖)/√c. In flat space, c → 0, a boost is a sum, a centroid a mean, and distances are those
of vectors. d(x, y) ≤ ‖s − s'‖ always. Half precision is computed in float32. Squares of norms must
be numbers of the dtype.

| other coordinates | from the space part |
| --- | --- |
| tangent t at the origin of the ball | asinh(√c‖s‖)/(2√c‖s‖) s |
| point of the ball | s/(1 + X) |
| velocity ω | √c s |

Source: Nickel & Kiela 2018, arXiv:1806.03417; boosts are Ungar 2008, ch. 3.
Differs from them: no time is carried along.
"""

from torch import Tensor

from .._fast.fused_rows import fused_row_tangent
from ..maths.ball import Curvature, check_curvature, in_float32, inner, root
from ..maths.coordinates import (
    ball_to_velocity,
    held_velocity,
    velocity_to_ball,
    velocity_to_tangent,
)
from ..maths.radial import length, squared_angle
from ..maths.space_parts import scaled_time
from ..midpoint import Axes, excess_and_delay, velocity_midpoint

__all__ = [
    "boost",
    "centroid",
    "distance",
    "from_ball",
    "from_tangent",
    "relative_to",
    "squared_distance",
    "to_ball",
    "to_tangent",
]


@in_float32
def boost(s: Tensor, by: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return s moved by the boost that carries the origin to another point, along their geodesic.

        by ⊕ s = s + (X_s + c⟨s, by⟩/(1 + X_by)) by

    This is the Möbius sum of the ball in space parts: 0 ⊕ s = s, b ⊕ 0 = b, (−b) ⊕ (b ⊕ s) = s.

    Args:
        s: Points that are moved.
        by: Where the origin goes; broadcasts over s.
        curvature: c.
        dim: The axis of D.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    along = curvature * inner(s, by, dim) / (1 + scaled_time(by, curvature, dim=dim))
    return s + (scaled_time(s, curvature, dim=dim) + along) * by


@in_float32
def relative_to(s: Tensor, origin: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return (−origin) ⊕ s, what points are as seen from another one, written in differences.

        s − o − (X_s − X_o + cosh ρ − 1)/(1 + X_o) o,   ρ = √c d(s, o)

    keeps the digits of points close to o, however far out both lie; `boost` by −o loses them.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    scale = root(curvature)
    excess, later = excess_and_delay(scale * s, scale * origin, dim)
    share = (later + excess) / (1 + scaled_time(origin, curvature, dim=dim))
    return s - origin - share * origin


@in_float32
def centroid(
    s: Tensor,
    curvature: Curvature,
    weights: Tensor | None = None,
    *,
    over: Axes = 0,
    dim: int = -1,
) -> Tensor:
    """Return the weighted centre of mass, the axes that are averaged gone.

    It minimises Σ w cosh(√c d(s, ·)) and moves with every isometry. A weight acts as a mass: far
    points count for more than in the mean of tangents. Written around the mean of the space parts,
    it keeps its digits however far out the points lie.

    Args:
        s: Points.
        curvature: c.
        weights: Non-negative, broadcast over s with size 1 on `dim`; only their ratios matter. None
            are equal weights.
        over: The axis or axes to average.
        dim: The axis of D, counted in s.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    scale = root(curvature)
    axes = (over,) if isinstance(over, int) else over
    mean = velocity_midpoint(scale * s, weights, over=over, dim=dim) / scale
    return mean.squeeze(tuple(axis % s.dim() for axis in axes))


@in_float32
def squared_distance(x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return d(x, y)², smooth everywhere; D is summed away.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    scale = root(curvature)
    excess, _ = excess_and_delay(scale * x, scale * y, dim)
    return (squared_angle(excess) / curvature).squeeze(dim)


@in_float32
def distance(x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return the geodesic distance d(x, y) ≤ ‖x − y‖; the gradient at x = y is zero.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    return length(squared_distance(x, y, curvature, dim=dim))


@in_float32
def from_tangent(t: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return the space part of exp₀(t) for tangents of the ball, 2 sinh(τ)/τ t with τ = 2√c‖t‖.

    Points further than 30/√c from the origin are taken there, along their radius.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    return held_velocity(t, curvature, dim=dim)[0] / root(curvature)


@in_float32
def to_tangent(s: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return the tangent at the origin of the ball; its length is half the distance from there.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    found = fused_row_tangent(s, curvature) if dim in (-1, s.dim() - 1) else None
    return velocity_to_tangent(root(curvature) * s, curvature, dim=dim) if found is None else found


@in_float32
def from_ball(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return the space part λ_x x of a point of the ball, read as in `poincare`.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    return ball_to_velocity(x, curvature, dim=dim, margin=margin) / root(curvature)


@in_float32
def to_ball(
    s: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return the point s/(1 + X) of the ball, held inside the margin.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    return velocity_to_ball(root(curvature) * s, curvature, dim=dim, margin=margin)
