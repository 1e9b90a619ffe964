"""The Poincaré ball as pure functions: maps, distances, midpoints, transport, hyperplanes.

For c > 0 the ball {x : c‖x‖² < 1} with the metric λ_x² ⟨·,·⟩, λ_x = 2/(1 − c‖x‖²), has sectional
curvature −c. The distance from the origin of exp₀(t) is 2‖t‖. Every function

- takes D on axis `dim`, a curvature that is a float or a tensor, and points that broadcast;
- has no branch that its result depends on, and finite values and gradients for any finite input;
- computes half precision in float32 and returns the dtype it was given;
- reads points beyond the margin (`ball.MARGINS`, an argument) at half of it, along their radius,
  and holds a result that is a point at the margin. So `distance`, `distance0` and the lengths of
  `logmap` and `logmap0` are the same numbers, and maps undo each other, up to the margin.
  Beyond it distances stay large and finite.

Sources: Ungar 2008, "A gyrovector space approach to hyperbolic geometry"; Ganea et al. 2018,
"Hyperbolic neural networks", arXiv:1805.09112; Shimizu et al. 2021, "Hyperbolic neural networks++",
arXiv:2006.08210.
Differs from them: written in squares of norms, so that the origin needs no clamp; distances by the
inverse hyperbolic sine, and Möbius sums in x + y and the rooms 1 − c‖·‖², which keep their digits
near the boundary where the published forms lose them.
"""

# Symbols: x, y, z points, v a tangent vector at x, t one at the origin, λ the conformal factor,
# R_x = 1 − c‖x‖² = 2/λ_x the room of a point.

import torch
from torch import Tensor

from . import lorentz
from .maths.ball import (
    Curvature,
    check_curvature,
    in_float32,
    in_range,
    inner,
    project,
    read,
    room,
    root,
    squared_norm,
)
from .maths.radial import asinhc, atanhc, length, tanhc

__all__ = [
    "conformal_factor",
    "distance",
    "distance0",
    "expmap",
    "expmap0",
    "gyration",
    "hyperplane_distance",
    "logmap",
    "logmap0",
    "midpoint",
    "mobius_add",
    "mobius_scale",
    "parallel_transport",
    "squared_distance",
]

# The length that a normal of a hyperplane has at least.
TINY = 1e-30

# Where tanh is 1 in every dtype; the room beside it is still a number.
SATURATED = 40.0


@in_float32
def conformal_factor(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return λ_x = 2/(1 − c‖x‖²), with size 1 on `dim`.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    return 2 / room(x, curvature, dim, margin)


@in_float32
def expmap0(
    t: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return exp₀(t) = tanh(√c‖t‖)/(√c‖t‖) t.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    t = in_range(t, dim)
    point = tanhc(curvature * squared_norm(t, dim)) * t
    return project(point, curvature, dim=dim, margin=margin)


@in_float32
def logmap0(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return log₀(x) = artanh(√c‖x‖)/(√c‖x‖) x.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    x, room_x = read(x, curvature, dim, margin)
    return atanhc(1 - room_x) * x


@in_float32
def mobius_add(
    x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return x ⊕ y, the left translation of y by x; not commutative, not associative.

        x ⊕ y = ((1 + 2c⟨x,y⟩ + c‖y‖²) x + (1 − c‖x‖²) y) / (1 + 2c⟨x,y⟩ + c²‖x‖²‖y‖²)
              = (R_x w + c‖w‖² x) / (R_x R_y + c‖w‖²),   w = x + y

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    (x, room_x), (y, room_y) = (read(z, curvature, dim, margin) for z in (x, y))
    total = _mobius_add(x, room_x, y, room_y, curvature, dim)
    return project(total, curvature, dim=dim, margin=margin)


def _mobius_add(
    x: Tensor, room_x: Tensor, y: Tensor, room_y: Tensor, c: Curvature, dim: int
) -> Tensor:
    both = x + y
    square = c * squared_norm(both, dim)
    whole = room_x * room_y + square
    # Two forms of one sum: (R_x w + c‖w‖² x)/whole keeps its digits where x and y nearly cancel,
    # x + R_x (w − R_y x)/whole is x to the last digit where y is 0.
    cancels = 4 * square < (1 - room_x) * whole
    taken, kept = torch.where(cancels, 0.0, room_y), torch.where(cancels, square / whole, 1.0)
    return kept * x + room_x / whole * (both - taken * x)


@in_float32
def mobius_scale(
    x: Tensor,
    factor: float | Tensor,
    curvature: Curvature,
    *,
    dim: int = -1,
    margin: float | None = None,
) -> Tensor:
    """Return factor ⊗ x = exp₀(factor · log₀(x)): the point `factor` times as far out.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    t = logmap0(x, curvature, dim=dim, margin=margin)
    return expmap0(factor * t, curvature, dim=dim, margin=margin)


@in_float32
def expmap(
    x: Tensor, v: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return exp_x(v) = x ⊕ (tanh(√c λ_x‖v‖/2)/(√c‖v‖) v): where the geodesic from x along v ends.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    x, room_x = read(x, curvature, dim, margin)
    scaled = in_range(in_range(v, dim) / room_x, dim)
    square = curvature * squared_norm(scaled, dim)
    ratio = tanhc(square)
    left = _room_of_tanh(square, ratio)
    end = _mobius_add(x, room_x, ratio * scaled, left, curvature, dim)
    return project(end, curvature, dim=dim, margin=margin)


def _room_of_tanh(square: Tensor, ratio: Tensor) -> Tensor:
    """Return 1 − tanh² r = 4e^(−2r)/(1 + e^(−2r))², given r² and tanh(r)/r."""
    # The difference has no digits far out; the exponential has no derivatives at the origin.
    decay = (-2 * square.clamp(0.25, SATURATED**2).sqrt()).exp()
    return torch.where(square < 0.25, 1 - square * ratio.square(), 4 * decay / (1 + decay).square())


@in_float32
def logmap(
    x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return log_x(y) = (2/λ_x) log₀((−x) ⊕ y): the tangent at x whose geodesic ends in y.

    With d = y − x, q of `squared_distance` and S(r²) = asinh(r)/r, it is

        R_x S(q) (R_x d − c‖d‖² x) / √(R_x R_y (R_x R_y + c‖d‖²))

    whose length λ_x‖log_x(y)‖ is d(x, y) however far apart the two lie.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    (x, room_x), (y, room_y) = (read(z, curvature, dim, margin) for z in (x, y))
    apart, rooms = y - x, room_x * room_y
    square = curvature * squared_norm(apart, dim)
    scale = room_x * asinhc(square / rooms) * (rooms * (rooms + square)).rsqrt()
    return scale * (room_x * apart - square * x)


@in_float32
def squared_distance(
    x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return d(x, y)², smooth everywhere; D is summed away.

        d = (2/√c) asinh √q,   q = c‖x − y‖² / ((1 − c‖x‖²)(1 − c‖y‖²))

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    room_x, room_y = (room(z, curvature, dim, margin) for z in (x, y))
    # Ended before it is divided: an infinite quotient has no gradient.
    square = (curvature * squared_norm(x - y, dim)).clamp_max(torch.finfo(x.dtype).max ** 0.6)
    q = square / (room_x * room_y)
    return (4 * q * asinhc(q).square() / curvature).squeeze(dim)


@in_float32
def distance(
    x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return the geodesic distance d(x, y); D is summed away, the gradient at x = y is zero.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    return length(squared_distance(x, y, curvature, dim=dim, margin=margin))


@in_float32
def distance0(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return the distance from the origin, 2‖log₀(x)‖; the gradient at the origin is zero.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    return distance(x, torch.zeros_like(x), curvature, dim=dim, margin=margin)


@in_float32
def gyration(
    x: Tensor,
    y: Tensor,
    v: Tensor,
    curvature: Curvature,
    *,
    dim: int = -1,
    margin: float | None = None,
) -> Tensor:
    """Return gyr[x, y] v, the rotation by which ⊕ fails to be associative.

    Written in w = x + y, so that points that nearly cancel lose no digits near the boundary:

        gyr[x, y] v = v + 2c (P y − Q w) / (R_x R_y + c‖w‖²)
        P = −R_y⟨w,v⟩ − c‖w‖²⟨y,v⟩,   Q = c‖y‖²⟨w,v⟩ − (R_y + 2c⟨y,w⟩)⟨y,v⟩

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    (x, room_x), (y, room_y) = (read(z, curvature, dim, margin) for z in (x, y))
    return _gyration(-y, room_y, x, room_x, v, curvature, dim)


def _gyration(
    x: Tensor, room_x: Tensor, y: Tensor, room_y: Tensor, v: Tensor, c: Curvature, dim: int
) -> Tensor:
    """Return gyr[y, −x] v."""
    apart = y - x
    square, along, inside = c * squared_norm(apart, dim), inner(apart, v, dim), inner(x, v, dim)
    scale = 2 * c / (room_x * room_y + square)
    along_x = scale * (room_x * along - square * inside)
    along_apart = (1 - room_x) * along + (room_x - 2 * c * inner(x, apart, dim)) * inside
    return v + along_x * x - scale * along_apart * apart


@in_float32
def parallel_transport(
    x: Tensor,
    y: Tensor,
    v: Tensor,
    curvature: Curvature,
    *,
    dim: int = -1,
    margin: float | None = None,
) -> Tensor:
    """Return the tangent v at x carried to y along their geodesic: (λ_x/λ_y) gyr[y, −x] v.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    (x, room_x), (y, room_y) = (read(z, curvature, dim, margin) for z in (x, y))
    return room_y / room_x * _gyration(x, room_x, y, room_y, v, curvature, dim)


@in_float32
def midpoint(
    x: Tensor,
    curvature: Curvature,
    weights: Tensor | None = None,
    *,
    over: int | tuple[int, ...] = 0,
    dim: int = -1,
    margin: float | None = None,
) -> Tensor:
    """Return the weighted gyro-midpoint, the centre of mass in hyperboloid coordinates.

    With S = Σ w √c λ x and S₀ = Σ w (λ − 1), the midpoint is S/(√c (S₀ + √(S₀² − ‖S‖²))). Only the
    ratios of weights matter; they may not sum to zero. It minimises Σ w cosh(√c d(x, ·)), where the
    Fréchet mean minimises Σ w d², and it moves with every isometry.

    Args:
        x: Points.
        curvature: c.
        weights: Non-negative, broadcast over x with size 1 on `dim`; None are equal weights.
        over: The axis or axes that are averaged away.
        dim: The axis of D, counted in x.
        margin: Share of the radius kept free.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.

    Source: Ungar 2010; Shimizu et al. 2021, arXiv:2006.08210, §3.5.
    """
    check_curvature(curvature)
    point = lorentz.from_poincare(x, curvature, dim=dim, margin=margin)
    mean = lorentz.midpoint(point, curvature, weights, over=over, dim=dim)
    axes = (over,) if isinstance(over, int) else over
    # The axis of D may have another number now that axes before it are gone.
    gone = sum(axis % x.dim() < dim % x.dim() for axis in axes)
    return lorentz.to_poincare(mean, curvature, dim=dim % x.dim() - gone, margin=margin)


@in_float32
def hyperplane_distance(
    x: Tensor,
    normal: Tensor,
    offset: Tensor,
    curvature: Curvature,
    *,
    dim: int = -1,
    margin: float | None = None,
) -> Tensor:
    """Return 2‖z_k‖ times the signed distance of x to hyperplane k: the logits of an MLR.

        v_k = (2‖z_k‖/√c) asinh(√c λ_x ⟨x, ẑ_k⟩ cosh(2√c r_k) − (λ_x − 1) sinh(2√c r_k))

    The hyperplane goes through exp₀(r_k ẑ_k) and is normal to ẑ_k = z_k/‖z_k‖.

    Args:
        x: Points (…, D, …).
        normal: z (K, D).
        offset: r (K,).
        curvature: c.
        dim: The axis of D, and of K in the result.
        margin: Share of the radius kept free.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.

    Source: Shimizu et al. 2021, arXiv:2006.08210, eq. 6.
    """
    check_curvature(curvature)
    point, room_x = read(x.movedim(dim, -1), curvature, -1, margin)
    scale, factor = root(curvature), 2 / room_x
    square = normal.square().sum(-1)
    size = square.clamp_min(TINY).sqrt()
    angle = 2 * scale * offset
    along = (point @ (normal / size[:, None]).mT) * (scale * factor * angle.cosh())
    signed = 2 * size / scale * (along - (factor - 1) * angle.sinh()).asinh()
    return signed.movedim(-1, dim)
