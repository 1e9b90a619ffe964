"""The Poincaré ball as pure functions: maps, distances, midpoints, transport, hyperplanes.

For c > 0 the ball {x : c‖x‖² < 1} with the metric λ_x² ⟨·,·⟩, λ_x = 2/(1 − c‖x‖²), has sectional
curvature −c. The distance from the origin of exp₀(t) is 2‖t‖. Every function

- takes D on axis `dim`, a curvature that is a float or a tensor, and points that broadcast;
- has no data-dependent branch, and finite gradients at the origin and up to the margin;
- computes half precision in float32 and returns the dtype it was given;
- holds a result that is a point inside the margin (`ball.MARGINS`), which is an argument.

Sources: Ungar 2008, "A gyrovector space approach to hyperbolic geometry"; Ganea et al. 2018,
"Hyperbolic neural networks", arXiv:1805.09112; Shimizu et al. 2021, "Hyperbolic neural networks++",
arXiv:2006.08210.
Differs from them: written in squares of norms, so that the origin needs no clamp; distances by the
inverse hyperbolic sine, which keeps its digits near the boundary where the inverse tangent of a
Möbius difference loses them.
"""

# Symbols: x, y, z points, v a tangent vector at x, t one at the origin, λ the conformal factor.

import torch
from torch import Tensor

from . import lorentz
from .ball import Curvature, check_curvature, in_float32, inner, project, root, squared_norm
from .radial import asinhc, atanhc, tanhc

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

# Denominators vanish at the boundary only; this is far below what a margin leaves there.
TINY = 1e-30


@in_float32
def conformal_factor(x: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return λ_x = 2/(1 − c‖x‖²), with size 1 on `dim`."""
    return 2 / (1 - curvature * squared_norm(x, dim)).clamp_min(TINY)


@in_float32
def expmap0(
    t: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return exp₀(t) = tanh(√c‖t‖)/(√c‖t‖) t.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    point = tanhc(curvature * squared_norm(t, dim)) * t
    return project(point, curvature, dim=dim, margin=margin)


@in_float32
def logmap0(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return log₀(x) = artanh(√c‖x‖)/(√c‖x‖) x, points beyond the margin taken at it.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    x = project(x, curvature, dim=dim, margin=margin)
    return atanhc(curvature * squared_norm(x, dim)) * x


@in_float32
def mobius_add(
    x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return x ⊕ y, the left translation of y by x; not commutative, not associative.

        x ⊕ y = ((1 + 2c⟨x,y⟩ + c‖y‖²) x + (1 − c‖x‖²) y) / (1 + 2c⟨x,y⟩ + c²‖x‖²‖y‖²)

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    return project(_mobius_add(x, y, curvature, dim), curvature, dim=dim, margin=margin)


def _mobius_add(x: Tensor, y: Tensor, c: Curvature, dim: int) -> Tensor:
    xx, yy, xy = squared_norm(x, dim), squared_norm(y, dim), inner(x, y, dim)
    numerator = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    return numerator / (1 + 2 * c * xy + c * c * xx * yy).clamp_min(TINY)


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
    scaled = conformal_factor(x, curvature, dim=dim) / 2 * v
    step = tanhc(curvature * squared_norm(scaled, dim)) * scaled
    return project(_mobius_add(x, step, curvature, dim), curvature, dim=dim, margin=margin)


@in_float32
def logmap(
    x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return log_x(y) = (2/λ_x) log₀((−x) ⊕ y): the tangent at x whose geodesic ends in y.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    difference = _mobius_add(-x, y, curvature, dim)
    t = logmap0(difference, curvature, dim=dim, margin=margin)
    return 2 / conformal_factor(x, curvature, dim=dim) * t


@in_float32
def squared_distance(x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return d(x, y)², smooth everywhere; D is summed away.

        d = (2/√c) asinh √q,   q = c‖x − y‖² / ((1 − c‖x‖²)(1 − c‖y‖²))

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    q = curvature / 4 * squared_norm(x - y, dim)
    q = q * conformal_factor(x, curvature, dim=dim) * conformal_factor(y, curvature, dim=dim)
    return (4 * q * asinhc(q).square() / curvature).squeeze(dim)


@in_float32
def distance(x: Tensor, y: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return the geodesic distance d(x, y); D is summed away, the gradient at x = y is zero.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    square = squared_distance(x, y, curvature, dim=dim)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


@in_float32
def distance0(x: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return the distance from the origin, 2‖log₀(x)‖; the gradient at the origin is zero.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    return distance(x, torch.zeros_like(x), curvature, dim=dim)


@in_float32
def gyration(x: Tensor, y: Tensor, v: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return gyr[x, y] v, the rotation by which ⊕ fails to be associative.

    gyr[x, y] v = v + 2 (A x + B y)/D with, for c and ⟨·,·⟩ over D,

        A = −c²⟨x,v⟩‖y‖² + c⟨y,v⟩ + 2c²⟨x,y⟩⟨y,v⟩,   B = −c²⟨y,v⟩‖x‖² − c⟨x,v⟩,
        D = 1 + 2c⟨x,y⟩ + c²‖x‖²‖y‖²
    """
    check_curvature(curvature)
    c = curvature
    xx, yy, xy = squared_norm(x, dim), squared_norm(y, dim), inner(x, y, dim)
    xv, yv = inner(x, v, dim), inner(y, v, dim)
    along_x = -c * c * xv * yy + c * yv + 2 * c * c * xy * yv
    along_y = -c * c * yv * xx - c * xv
    return v + 2 * (along_x * x + along_y * y) / (1 + 2 * c * xy + c * c * xx * yy).clamp_min(TINY)


@in_float32
def parallel_transport(
    x: Tensor, y: Tensor, v: Tensor, curvature: Curvature, *, dim: int = -1
) -> Tensor:
    """Return the tangent v at x carried to y along their geodesic: (λ_x/λ_y) gyr[y, −x] v.

    Written in the difference d = y − x, so that close points near the boundary lose no digits:

        gyr[y, −x] v = v + 2c (P x − Q d) / ((1 − c‖x‖²)(1 − c‖y‖²) + c‖d‖²)
        P = (1 − c‖x‖²)⟨d,v⟩ − c‖d‖²⟨x,v⟩,   Q = c‖x‖²⟨d,v⟩ + (1 − c‖x‖² − 2c⟨x,d⟩)⟨x,v⟩

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    check_curvature(curvature)
    c, d = curvature, y - x
    room_x, room_y = 1 - c * squared_norm(x, dim), 1 - c * squared_norm(y, dim)
    dd, dv, xv = squared_norm(d, dim), inner(d, v, dim), inner(x, v, dim)
    along_x = room_x * dv - c * dd * xv
    along_d = (1 - room_x) * dv + (room_x - 2 * c * inner(x, d, dim)) * xv
    turn = 2 * c * (along_x * x - along_d * d) / (room_x * room_y + c * dd).clamp_min(TINY)
    return room_y / room_x.clamp_min(TINY) * (v + turn)


@in_float32
def midpoint(
    x: Tensor,
    curvature: Curvature,
    weights: Tensor | None = None,
    *,
    over: int | tuple[int, ...] = 0,
    dim: int = -1,
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

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.

    Source: Ungar 2010; Shimizu et al. 2021, arXiv:2006.08210, §3.5.
    """
    check_curvature(curvature)
    point = lorentz.from_poincare(x, curvature, dim=dim, margin=0.0)
    mean = lorentz.midpoint(point, curvature, weights, over=over, dim=dim)
    axes = (over,) if isinstance(over, int) else over
    # The axis of D may have another number now that axes before it are gone.
    gone = sum(axis % x.dim() < dim % x.dim() for axis in axes)
    return lorentz.to_poincare(mean, curvature, dim=dim % x.dim() - gone)


@in_float32
def hyperplane_distance(
    x: Tensor, normal: Tensor, offset: Tensor, curvature: Curvature, *, dim: int = -1
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

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.

    Source: Shimizu et al. 2021, arXiv:2006.08210, eq. 6.
    """
    check_curvature(curvature)
    point, scale = x.movedim(dim, -1), root(curvature)
    square = normal.square().sum(-1)
    length = square.clamp_min(TINY).sqrt()
    factor = conformal_factor(point, curvature)
    angle = 2 * scale * offset
    along = (point @ (normal / length[:, None]).mT) * (scale * factor * angle.cosh())
    signed = 2 * length / scale * (along - (factor - 1) * angle.sinh()).asinh()
    return signed.movedim(-1, dim)
