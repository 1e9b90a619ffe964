"""Lines below and above a function of one number on an interval.

    a t + b ≤ σ(t) ≤ A t + B        for all t in [l, u]

Piecewise linear functions with one bend at zero have the lines of CROWN: the secant on one side, on
the other the piece that leaves the smaller area. Any other function is looked at on a grid of the
interval: with slopes in [m, M] and a derivative with the Lipschitz constant C, between two points h
apart σ(t) − k t exceeds the larger of its two ends by

    min{ (M − k)(k − m) h / (M − m),  C h² / 8 }

at most, which makes an intercept sound for any slope k; the best of a few slopes is taken.

`shared` asks for a = A: one pass through the network then bounds from both sides.

Sources: Zhang et al. 2018, arXiv:1811.00866 (CROWN, adaptive lines); Singh et al. 2018, "Fast and
effective robustness certification", NeurIPS (one slope for both lines).
Differs from them: lines of functions other than ReLU come from values on a grid, not from tangents;
every intercept is moved outwards by more than its rounding.
"""

# Shape letters: N samples, n values, m intervals of the grid.

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import UNIT, gamma
from ..graph import Elementwise

__all__ = ["Lines", "lines", "sampled", "two_pieces"]

POINTS = 16  # m
BENT = {"aten.relu", "aten.leaky_relu", "aten._prelu_kernel", "aten.abs"}

# Largest |σ''|, rounded outwards where it is no closed form.
CURVATURE = {
    "aten.tanh": 0.77,
    "aten.sigmoid": 0.09623,
    "aten.gelu": 0.8,
    "aten.silu": 0.5001,
    "aten.softplus": 0.25001,
    "aten.log_sigmoid_forward": 0.25001,
    "aten.log_sigmoid": 0.25001,
    "aten.atan": 0.6496,
    "aten.erf": 0.968,
    "aten.asinh": 0.385,
    "aten.sin": 1.0,
    "aten.cos": 1.0,
}


class Lines(NamedTuple):
    """Slopes and intercepts (N, n) of a lower and an upper line."""

    low_slope: Tensor
    low: Tensor
    high_slope: Tensor
    high: Tensor


def lines(node: Elementwise, low: Tensor, high: Tensor, *, shared: bool = False) -> Lines:
    """Return lines of a node's function on intervals [low, high], each (N, n)."""
    if node.kind in BENT:
        one = torch.ones(node.size, dtype=torch.float64)
        left, right = -node.function(-one), node.function(one)
        if node.rounding == 0.0 or bool(((left == node.low) | (left == node.high)).all()):
            found = two_pieces(low, high, left, right, shared=shared)
            return _wider(found, 2 * node.rounding * _most(left, right) * _most(low, high))
    knots = _knots(node)
    curvature = CURVATURE.get(node.kind, torch.inf)
    if node.kind == "aten.softplus":
        curvature *= float(str(node.parameters[1])) if len(node.parameters) > 1 else 1e3
    return sampled(
        node.function, low, high, node.low, node.high, rounding=node.rounding,
        curvature=curvature, knots=knots, shared=shared,
    )  # fmt: skip


def two_pieces(
    low: Tensor, high: Tensor, left: Tensor, right: Tensor, *, shared: bool = False
) -> Lines:
    """Return lines of t -> left · min(t, 0) + right · max(t, 0).

    Args:
        low: Of the intervals (N, n).
        high: Not below `low`.
        left: Slopes below zero (n,).
        right: Slopes above zero (n,).
        shared: Whether both lines have one slope.
    """
    sign = torch.where(right >= left, 1.0, -1.0).to(low)
    a, b = sign * left, sign * right  # convex: a ≤ b
    bends = (low < 0) & (high > 0)
    width = torch.where(bends, high - low, 1.0)
    secant = torch.maximum(torch.minimum((b * high - a * low) / width, b), a)
    upper = torch.maximum((a - secant) * low, (b - secant) * high)
    upper = upper + gamma(8) * (a.abs() + b.abs() + secant.abs()) * _most(low, high)
    piece = torch.where(high <= 0, a, b)
    one = secant if shared else torch.where(high > -low, b, a)
    zero = torch.zeros_like(low)
    under = torch.where(bends, one, piece)
    over = torch.where(bends, secant, piece)
    rise = torch.where(bends, upper, zero)
    down = sign < 0
    return Lines(
        torch.where(down, -over, under), torch.where(down, -rise, zero),
        torch.where(down, -under, over), torch.where(down, zero, rise),
    )  # fmt: skip


def sampled(
    function: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    least: Tensor,
    most: Tensor,
    *,
    rounding: float = 0.0,
    curvature: float = torch.inf,
    knots: tuple[float, ...] | None = None,
    shared: bool = False,
) -> Lines:
    """Return lines of any function with slopes in [least, most], from its values on a grid.

    Args:
        function: Tensors (…, n) -> (…, n).
        low: Of the intervals (N, n).
        high: Not below `low`.
        least: Of all slopes (n,).
        most: Of all slopes (n,).
        rounding: Of the function, as a share of |t| + |σ(t)|.
        curvature: The Lipschitz constant of the derivative, or infinity.
        knots: Where a piecewise linear function bends: then nothing lies between the points.
        shared: Whether both lines have one slope.
    """
    share = torch.arange(POINTS + 1, dtype=torch.float64).view(-1, *[1] * low.dim()) / POINTS
    points = torch.lerp(low[None], high[None], share)
    points = torch.maximum(torch.minimum(points, high), low)
    points[0], points[-1] = low, high
    if knots is not None:
        bends = torch.tensor(knots, dtype=torch.float64).view(-1, *[1] * low.dim())
        bends = torch.maximum(torch.minimum(bends.expand(-1, *low.shape), high), low)
        points = torch.cat([points, bends]).sort(0).values
    values = function(points)
    farthest = _most(low, high)
    tallest = values.abs().amax(0)
    step = (high - low) * (1 + 1e-9) / POINTS + 8 * UNIT * farthest
    slopes = values.diff(dim=0) / points.diff(dim=0)
    count = len(slopes)
    tried = [slopes[i] for i in dict.fromkeys((0, count // 4, count // 2, 3 * count // 4, -1))]
    tried.append((values[-1] - values[0]) / (high - low))
    tried += [least.expand_as(low), most.expand_as(low)]
    middle = low + (high - low) / 2
    lost = gamma(16) * tallest + 2 * rounding * (farthest + tallest)
    best: Lines | None = None
    for slope in tried:
        k = torch.maximum(torch.minimum(slope.nan_to_num(0.0, 0.0, 0.0), most), least)
        rest = values - k * points
        up, down = most - k, k - least
        between = up * down / (up + down).clamp_min(1e-300) * step
        if curvature < torch.inf:
            between = between.minimum(curvature * step * step / 8)
        if knots is not None:
            between = torch.zeros_like(between)
        between = between * (1 + 1e-9) + lost + gamma(16) * k.abs() * farthest
        found = Lines(k, rest.amin(0) - between, k, rest.amax(0) + between)
        best = found if best is None else _better(best, found, middle, shared)
    assert best is not None
    return best


def _better(one: Lines, two: Lines, middle: Tensor, shared: bool) -> Lines:
    """Take the lines that leave the smaller area, which is their distance in the middle."""
    if shared:
        closer = two.high - two.low < one.high - one.low
        return Lines(*(torch.where(closer, b, a) for a, b in zip(one, two, strict=True)))
    above = two.low_slope * middle + two.low > one.low_slope * middle + one.low
    below = two.high_slope * middle + two.high < one.high_slope * middle + one.high
    takes = (above, above, below, below)
    return Lines(*(torch.where(w, b, a) for w, a, b in zip(takes, one, two, strict=True)))


def _wider(found: Lines, by: Tensor) -> Lines:
    return found._replace(low=found.low - by, high=found.high + by)


def _most(one: Tensor, two: Tensor) -> Tensor:
    return torch.maximum(one.abs(), two.abs())


def _knots(node: Elementwise) -> tuple[float, ...] | None:
    """Return where a piecewise linear function bends, if its options say so."""
    if node.kind == "aten.relu6":
        return (0.0, 6.0)
    if node.kind not in ("aten.hardtanh", "aten.clamp", "aten.clamp_min", "aten.clamp_max"):
        return None
    given = [str(option) for option in node.parameters[1:] if str(option) != "None"]
    try:
        return tuple(float(option) for option in given) or None
    except ValueError:
        return None
