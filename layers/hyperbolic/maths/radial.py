"""Radial functions that are smooth in the squared radius, so that the origin is no special point.

With u = r² ≥ 0:

    sinhc(u) = sinh(r)/r    asinhc(u) = asinh(r)/r    tanhc(u) = tanh(r)/r    atanhc(u) = atanh(r)/r

Each is analytic in u at 0 and even in r, so nothing here divides by a norm or takes the square
root of zero: values and gradients of every order are finite at the origin. Near it the power series
is evaluated, elsewhere the closed form; both sides of the change agree to rounding. Only gradients
need the series: `sinhc_value` and `asinhc_value` are the closed forms alone, at half the cost.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = [
    "asinhc",
    "asinhc_slope",
    "asinhc_value",
    "atanhc",
    "cosh_of_square",
    "length",
    "sinhc",
    "sinhc_slope",
    "sinhc_value",
    "squared_angle",
    "tanhc",
]

# Below this u the series has a truncation error under 1e-16; above it the gradient of the closed
# form, a difference divided by u, still has relative error under 1e-13 (float64).
SERIES_BELOW = 0.01

SINH = [1 / math.factorial(2 * n + 1) for n in range(8)]
ATANH = [1 / (2 * n + 1) for n in range(8)]
ASINH = [(-1) ** n * math.comb(2 * n, n) / (4**n * (2 * n + 1)) for n in range(8)]
TANH = [
    *(1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075),
    -929569 / 638512875,
]


def sinhc(square: Tensor) -> Tensor:
    """Return sinh(r)/r for r² = square ≥ 0; overflows beyond r = 89 (float32), 710 (float64)."""
    return _even(square, SINH, _sinh)


def sinhc_value(square: Tensor) -> Tensor:
    """Return sinhc where its gradient is not wanted."""
    radius = _radius(square)
    return _sinh(radius) / radius


def sinhc_slope(square: Tensor, value: Tensor, cosh: Tensor) -> Tensor:
    """Return the derivative of sinhc by r², given sinhc(square) and cosh(r)."""
    return _slope(square, SINH, cosh - value)


def asinhc(square: Tensor) -> Tensor:
    """Return asinh(r)/r for r² = square ≥ 0."""
    return _even(square, ASINH, _asinh)


def asinhc_value(square: Tensor) -> Tensor:
    """Return asinhc where its gradient is not wanted."""
    radius = _radius(square)
    return _asinh(radius) / radius


def asinhc_slope(square: Tensor, value: Tensor) -> Tensor:
    """Return the derivative of asinhc by r², given asinhc(square)."""
    return _slope(square, ASINH, (1 + square).rsqrt() - value)


def tanhc(square: Tensor) -> Tensor:
    """Return tanh(r)/r for r² = square ≥ 0."""
    return _even(square, TANH, torch.tanh)


def atanhc(square: Tensor) -> Tensor:
    """Return atanh(r)/r for r² = square in [0, 1)."""
    return _even(square, ATANH, torch.atanh)


def cosh_of_square(square: Tensor) -> Tensor:
    """Return cosh(r) for r² = square ≥ 0."""
    return (1 + square * sinhc(square).square()).sqrt()


def length(square: Tensor) -> Tensor:
    """Return r for r² = square ≥ 0, with the gradient zero at 0."""
    none = square == 0
    return torch.where(none, 0.0, torch.where(none, 1.0, square).sqrt())


# `torch.sinh` and `torch.asinh` are some ten times slower on a CPU than what these are made of.
# Both forms keep their digits to the origin; a difference of exponentials would lose them.
def _sinh(r: Tensor) -> Tensor:
    return (r.expm1() - (-r).expm1()) / 2


def _asinh(r: Tensor) -> Tensor:
    square = r.square()
    return (r + square / (1 + (1 + square).sqrt())).log1p()


def _terms(square: Tensor) -> int:
    """Return the last power of u that a dtype can see below `SERIES_BELOW`."""
    return 7 if square.dtype == torch.float64 else 4


def _radius(square: Tensor) -> Tensor:
    """Return r, not quite zero, to divide by."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


def _slope(square: Tensor, coefficients: Sequence[float], twice: Tensor) -> Tensor:
    """Return the derivative of a series by u; away from the origin it is `twice` over 2u."""
    near = square.clamp_max(SERIES_BELOW)
    terms = [n * coefficients[n] for n in range(1, _terms(square) + 1)]
    # c_0 (1 + c_1/c_0 u (1 + c_2/c_1 u (...))): one operation for each term.
    one = square.new_ones(())
    series = one
    for before, after in reversed(list(pairwise(terms))):
        series = torch.addcmul(one, near, series, value=after / before)
    far = twice / (2 * square.clamp_min(SERIES_BELOW))
    return torch.where(square < SERIES_BELOW, terms[0] * series, far)


def _even(
    square: Tensor, coefficients: Sequence[float], closed: Callable[[Tensor], Tensor]
) -> Tensor:
    # A graph for inference has no gradients, and a third of a network's operations are these.
    if torch.compiler.is_exporting() and not torch.is_grad_enabled():
        radius = _radius(square)
        return closed(radius) / radius
    # Either branch sees harmless numbers where the other is taken: 0 · inf would be a NaN gradient.
    near, radius = square.clamp_max(SERIES_BELOW), square.clamp_min(SERIES_BELOW).sqrt()
    last = _terms(square)
    series = torch.full_like(near, coefficients[last])
    for coefficient in reversed(coefficients[:last]):
        series = series * near + coefficient
    return torch.where(square < SERIES_BELOW, series, closed(radius) / radius)


def squared_angle(excess: Tensor) -> Tensor:
    """Return ρ² from cosh ρ − 1."""
    half = excess / 2
    return 4 * half * asinhc(half).square()
