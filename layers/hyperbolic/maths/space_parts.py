"""Space parts: points of the hyperboloid without their time, and the maps that products need.

A point (x₀, s) with x₀ = √(r² + ‖s‖²) and r = 1/√c is its space part s, and any vector is one. With
the scaled time X and the height h above the origin

    X(s) = √c x₀ = √(1 + c‖s‖²),    h(s) = (X − 1)/c = ‖s‖²/(1 + X),    x₀ = r + √c h

nothing grows as c → 0: there h is ‖s‖²/2. Both are smooth in s and in c, and h keeps its digits at
the origin. One more channel makes Minkowski's product a plain one, up to what depends on x alone:

    lift(s) = [s, h],    covector(s) = [s, −X],    ⟨covector(x), lift(y)⟩ = ⟨x, y⟩_L + r x₀

A mean [S, n] of lifts, with shares that sum to one, is all that is needed of the points averaged:

    drop([S, n]) = S/√f,    f = (1 + cn)² − c‖S‖² ≥ 1

is the space part of their centre of mass, the Lorentz centroid. Only rounding brings f below 1,
where it is held.

Precision: f is a difference of large numbers where all points are far out; the result is off by
about ε cosh²(R) at R radii from the origin, where `space_points.centroid` loses nothing. Squares of
norms must be numbers of the dtype: norms up to 1e19 in float32.

Source: Law et al. 2019, "Lorentzian distance learning for hyperbolic representations", eq. 9 (the
centroid).
Differs from it: the height in place of the time, so that flat space is a limit of every term.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .ball import Curvature, root, squared_norm

__all__ = ["covector", "drop", "height", "lift", "lorentz_map", "scaled_time", "time_excess"]


def scaled_time(s: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return X = √(1 + c‖s‖²) with size 1 on `dim`."""
    return (1 + curvature * squared_norm(s, dim)).sqrt()


def height_of_square(square: Tensor, curvature: Curvature) -> Tensor:
    """Return h for ‖s‖² = square."""
    return square / (1 + (1 + curvature * square).sqrt())


def height(s: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return h = ‖s‖²/(1 + X) with size 1 on `dim`."""
    return height_of_square(squared_norm(s, dim), curvature)


def time_excess(square: Tensor, curvature: Curvature) -> Tensor:
    """Return e = x₀ − r = √c h for ‖s‖² = square: 0 at the origin, and everywhere in flat space."""
    return root(curvature) * height_of_square(square, curvature)


def lift(s: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return [s, h], one longer on `dim`."""
    return torch.cat([s, height(s, curvature, dim=dim)], dim)


def covector(s: Tensor, curvature: Curvature, gain: Tensor | None = None) -> Tensor:
    """Return gain · [s, −X] for s (…, D), one longer.

    Args:
        s: Space parts.
        curvature: c.
        gain: Broadcasts over s with size 1 on the last axis; None is 1.
    """
    out = torch.cat([s, -scaled_time(s, curvature)], -1)
    return out if gain is None else gain * out


def drop(mean: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return the centre of mass S/√f of the mean [S, n] of lifts, one shorter on `dim`."""
    width = mean.shape[dim] - 1
    space, mean_height = mean.narrow(dim, 0, width), mean.narrow(dim, width, 1)
    late = mean_height * (2 + curvature * mean_height)
    scale = 1 + curvature * (late - squared_norm(space, dim))
    return space * scale.clamp_min(1.0).rsqrt()


def lorentz_map(
    s: Tensor, weight: Tensor, time_weight: Tensor, bias: Tensor | None, curvature: Curvature
) -> Tensor:
    """Return W s + w₀ e(s) + b (…, M) for s (…, D), W (M, D), w₀ and b (M,).

    The product runs in half precision under autocast, and e is computed in at least float32.
    """
    out = F.linear(s, weight, bias)
    wide = s.to(torch.promote_types(s.dtype, torch.float32))
    excess = time_excess(squared_norm(wide, -1), curvature)
    return torch.addcmul(out, excess.to(out.dtype), time_weight.to(out.dtype))
