"""The hyperboloid as pure functions, and the isometry between it and the Poincaré ball.

Points are X = (x₀, s) with x₀ = √(1/c + ‖s‖²), the time in front on axis `dim`, D + 1 long; the
inner product is ⟨X, Y⟩ = ⟨s, s'⟩ − x₀ x₀' and ⟨X, X⟩ = −1/c. The distance from the origin of
exp₀(v) is ‖v‖, on the ball it is twice the tangent's norm: `to_poincare(expmap0(v))` is
`poincare.expmap0(v / 2)`.

A space part may be any vector, so there is no margin here: what limits a point is that products of
two of them must be numbers. Results are held where √c‖s‖ or ‖s‖ reaches `reach` (an argument;
`REACHES` of the dtype by default), 40/√c from the origin in float32, along their radius. Points are
read as they are. A result's time is computed from its space part, which keeps it on the
hyperboloid. Half precision is computed in float32.

Away from the origin a tangent vector's coordinates are longer than the vector by up to x₀, so that
ε x₀ is lost of it, and ε x₀² of its length: `expmap` and `logmap` undo each other up to about 6/√c
in float32 and 15/√c in float64, and `poincare.expmap` and `poincare.logmap` up to the margin.

Source: Nickel & Kiela 2018, "Learning continuous hierarchies in the Lorentz model of hyperbolic
geometry", arXiv:1806.03417.
Differs from it: the difference of two points enters distances in place of their product, whose
digits are lost for close points.
"""

# Symbols: X, Y points, V a tangent vector at X, v a space vector at the origin.

import math

import torch
from torch import Tensor

from .maths.ball import (
    HALF_REACH,
    RANGE,
    Curvature,
    check_curvature,
    in_float32,
    in_range,
    project,
    read,
    root,
    shorten,
    squared_norm,
)
from .maths.radial import asinhc, cosh_of_square, length, sinhc, squared_angle

__all__ = [
    "REACHES",
    "distance",
    "expmap",
    "expmap0",
    "from_poincare",
    "from_space",
    "logmap",
    "logmap0",
    "midpoint",
    "minkowski",
    "parallel_transport",
    "squared_distance",
    "to_poincare",
]


REACHES = {
    dtype: torch.finfo(dtype).max ** RANGE
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
} | {torch.float16: HALF_REACH}
"""Where √c‖s‖ ends in each dtype: at 314, 40, 40 and 11.7 radii from the origin."""


def time_of(x: Tensor, dim: int) -> Tensor:
    """Return x₀ with size 1 on `dim`."""
    return x.narrow(dim, 0, 1)


def space_of(x: Tensor, dim: int) -> Tensor:
    """Return s."""
    return x.narrow(dim, 1, x.shape[dim] - 1)


@in_float32
def from_space(
    s: Tensor, curvature: Curvature, *, dim: int = -1, reach: float | None = None
) -> Tensor:
    """Return the point (√(1/c + ‖s‖²), s) over a space part, held within reach.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    longest = REACHES[s.dtype] if reach is None else reach
    s = in_range(s, dim, RANGE)
    # In flat space a space part is a vector of ordinary length, and must stay a number too.
    scale = curvature.clamp_min(1.0) if isinstance(curvature, Tensor) else max(curvature, 1.0)
    s = shorten(s, squared_norm(s, dim) * scale, longest)
    return torch.cat([(1 / curvature + squared_norm(s, dim)).sqrt(), s], dim)


@in_float32
def minkowski(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Return ⟨X, Y⟩ = ⟨s, s'⟩ − x₀ x₀' with size 1 on `dim`."""
    product = x * y
    return space_of(product, dim).sum(dim, keepdim=True) - time_of(product, dim)


@in_float32
def to_poincare(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return the isometric point s/(1 + √c x₀) of the ball, held inside the margin.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    point = space_of(x, dim) / (1 + root(curvature) * time_of(x, dim))
    return project(point, curvature, dim=dim, margin=margin)


@in_float32
def from_poincare(
    x: Tensor,
    curvature: Curvature,
    *,
    dim: int = -1,
    margin: float | None = None,
    reach: float | None = None,
) -> Tensor:
    """Return the isometric point of the hyperboloid, s = λ_x x, read as in `poincare`.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    x, room = read(x, curvature, dim, margin)
    return from_space(2 * x / room, curvature, dim=dim, reach=reach)


@in_float32
def expmap0(
    v: Tensor, curvature: Curvature, *, dim: int = -1, reach: float | None = None
) -> Tensor:
    """Return exp₀(v): the point at distance ‖v‖ from (1/√c, 0) along the space vector v.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    v = in_range(v, dim)
    square = curvature * squared_norm(v, dim)
    furthest = _furthest_angle(v.dtype)
    space = sinhc(square.clamp_max(furthest**2)) * shorten(v, square, furthest)
    return from_space(space, curvature, dim=dim, reach=reach)


@in_float32
def logmap0(x: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return log₀(X), a space vector (…, D, …) of length d(0, X).

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    space = space_of(x, dim)
    return asinhc(curvature * squared_norm(space, dim)) * space


@in_float32
def expmap(
    x: Tensor, v: Tensor, curvature: Curvature, *, dim: int = -1, reach: float | None = None
) -> Tensor:
    """Return exp_X(V) = cosh(√c|V|) X + sinh(√c|V|)/(√c|V|) V with |V|² = ⟨V, V⟩.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    v = in_range(v, dim)
    # A tangent has ⟨V, V⟩ ≥ 0 up to rounding; a series in a square takes no tiny negative one.
    square = (curvature * minkowski(v, v, dim=dim)).clamp_min(0.0)
    furthest = _furthest_angle(v.dtype)
    held = square.clamp_max(furthest**2)
    moved = cosh_of_square(held) * x + sinhc(held) * shorten(v, square, furthest)
    return from_space(space_of(moved, dim), curvature, dim=dim, reach=reach)


@in_float32
def logmap(x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return log_X(Y), the tangent at X whose geodesic ends in Y.

        log_X(Y) = (ρ/sinh ρ) (Y − cosh ρ X),   ρ = √c d(X, Y)

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    excess = _excess(x, y, curvature, dim)
    square = squared_angle(excess)
    # Y − cosh ρ X in differences: at close points both terms nearly cancel.
    return ((y - x) - excess * x) / sinhc(square)


@in_float32
def squared_distance(x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return d(X, Y)², smooth everywhere; the axis of the points is summed away.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    return (squared_angle(_excess(x, y, curvature, dim)) / curvature).squeeze(dim)


@in_float32
def distance(x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return the geodesic distance arcosh(−c⟨X, Y⟩)/√c; the gradient at X = Y is zero.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    return length(squared_distance(x, y, curvature, dim=dim))


@in_float32
def midpoint(
    x: Tensor,
    curvature: Curvature,
    weights: Tensor | None = None,
    *,
    over: int | tuple[int, ...] = 0,
    dim: int = -1,
    reach: float | None = None,
) -> Tensor:
    """Return the weighted centre of mass Σ w X / (√c |Σ w X|), the ball's gyro-midpoint.

    Args:
        x: Points.
        curvature: c.
        weights: Non-negative, broadcast over x with size 1 on `dim`; None are equal weights.
        over: The axis or axes that are averaged away.
        dim: The axis of the points, counted in x.
        reach: Where √c‖s‖ of the result ends.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    axes = (over,) if isinstance(over, int) else over
    weights = torch.ones_like(time_of(x, dim)) if weights is None else weights
    total = (weights * torch.ones_like(time_of(x, dim))).sum(axes, keepdim=True)
    share = weights / total
    centre = from_space((share * space_of(x, dim)).sum(axes, keepdim=True), curvature, dim=dim)
    # |Σ w X|² = ⟨·,·⟩ is a difference of large squares where all points are far out. Written around
    # the mean of the space parts it is 1 plus what the points' distances from there add.
    spread = (share * _excess(x, centre, curvature, dim)).sum(axes, keepdim=True)
    time = root(curvature) * time_of(centre, dim)
    square = 1 + spread * (2 + spread / time.square())
    space = space_of(centre, dim) / square.sqrt()
    mean = from_space(space, curvature, dim=dim, reach=reach)
    return mean.squeeze(tuple(axis % x.dim() for axis in axes))


@in_float32
def parallel_transport(
    x: Tensor, y: Tensor, v: Tensor, curvature: Curvature, *, dim: int = -1
) -> Tensor:
    """Return the tangent V at X carried to Y: V + c⟨Y, V⟩/(1 − c⟨X, Y⟩) (X + Y).

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    factor = curvature * minkowski(y, v, dim=dim) / (2 + _excess(x, y, curvature, dim))
    return v + factor * (x + y)


def _excess(x: Tensor, y: Tensor, curvature: Curvature, dim: int) -> Tensor:
    """Return cosh(√c d) − 1 = c⟨X − Y, X − Y⟩/2 by the form that keeps more digits.

    The difference is exact near Y and the product far from it, where ‖s − s'‖² and (x₀ − x₀')² are
    both large.
    """
    time, space = x - y, space_of(x - y, dim)
    time = time_of(time, dim)
    square = squared_norm(space, dim)
    near = curvature / 2 * (square - time.square())
    far = -curvature * minkowski(x, y, dim=dim) - 1
    product = time_of(x, dim) * time_of(y, dim)
    return torch.where(square < product, near, far).clamp_min(0.0)


def _furthest_angle(dtype: torch.dtype) -> float:
    """Return ρ where sinh ρ is what a dtype's coordinates reach."""
    return math.asinh(REACHES[dtype])
