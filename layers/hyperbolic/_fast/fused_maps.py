"""Pointwise maps of the ball with gradients written by hand, which keep their inputs alone.

From velocities to tangents, out = λ A(‖ω‖²) ω with A(r²) = asinh(r)/r, a factor λ, and G the
gradient of out:

    dω = λ A G + 2λ A' ⟨G, ω⟩ ω,  dλ = Σ ⟨G, out⟩/λ

Möbius addition of tangents (`mobius`), out = f O, O = P σ_a a + σ_b b, σ = 2√c S(4c‖·‖²), times A₀
and B₀, T = A₀B₀ + σ_aσ_b⟨a, b⟩, P = (B₀ + T)/(1 + A₀), f = A(‖O‖²)/(2√c), e = 2 f' ⟨G, O⟩:

    dO = f G + e O,  dα = ⟨dO, a⟩,  dβ = ⟨dO, b⟩,  dP = σ_a dα,  dT = dP/(1 + A₀)
    dA₀ = dT (B₀ − P),  dB₀ = dT (1 + A₀)
    dσ_a = P dα + dT σ_b⟨a, b⟩,  dσ_b = dβ + dT σ_a⟨a, b⟩
    da = P σ_a dO + dT σ_aσ_b b + 2 d‖a‖² a,  db = σ_b dO + dT σ_aσ_b a + 2 d‖b‖² b
"""

# Shape letters: B batch, D channels on axis 1, ... pixels. A number per point has size 1 there.

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import (
    Curvature,
    as_number,
    inner,
    is_seen_within,
    longest_in_range,
    range_factor,
    squared_norm,
)
from ..maths.coordinates import scaled_tangent
from ..maths.radial import asinhc_slope, asinhc_value
from .fused_layout import as_forward, by_hand, laid_out, matched, tensor_or_none
from .fused_planes import capped, capped_slopes

__all__ = ["fused_sum", "fused_tangent"]

# Power of a dtype's largest number up to which the squares of tangents are read as they are; it
# leaves wide tangents room above the square of `DIRECTION_RANGE`.
SQUARE_RANGE = 0.72


def fused_tangent(velocity: Tensor, factor: Curvature, groups: int = 1) -> Tensor | None:
    """The result of `coordinates.scaled_tangent`, or None where that must run."""
    if not by_hand(factor, velocity):
        return None
    return _Tangent.apply(laid_out(velocity, groups), factor, groups)  # type: ignore[return-value]


class _Tangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, velocity: Tensor, factor: Curvature, groups: int) -> Tensor:
        ctx.kernel = kernel_takes("poincare", velocity)
        ctx.number, ctx.groups = as_number(factor), groups
        ctx.save_for_backward(velocity, tensor_or_none(factor))
        if not ctx.kernel:
            parts = velocity.unflatten(1, (groups, -1))
            scale = asinhc_value(squared_norm(parts, 2)).mul_(ctx.number)
            return (scale * parts).flatten(1, 2)
        out = torch.empty_like(velocity)
        torch.ops.archzoo_poincare.tangents(velocity, ctx.number, groups, out)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        velocity, factor = ctx.saved_tensors
        (gradient,), number, groups = gradients, ctx.number, ctx.groups
        if differentiates_backward(*gradients):
            inputs = (velocity, number if factor is None else factor)
            found = through_definition(lambda w, x: scaled_tangent(w, x, groups), inputs, gradient)
            return *found, None
        if ctx.kernel:
            gradient = matched(gradient, velocity)
            result, along = torch.empty_like(velocity), velocity.new_empty(())
            torch.ops.archzoo_poincare.tangents_backward(
                gradient, velocity, number, groups, result, along
            )
        else:
            parts, g = (x.unflatten(1, (groups, -1)) for x in (velocity, gradient))
            square, dot = squared_norm(parts, 2), inner(g, parts, 2)
            value = asinhc_value(square)
            result = (g * (number * value)).addcmul_(
                parts, 2 * number * asinhc_slope(square, value) * dot
            )
            result, along = result.flatten(1, 2), number * (value * dot).sum()
        return result, None if factor is None else along.div(number).view_as(factor), None


def fused_sum(
    definition: Callable[[Tensor, Tensor, Curvature], Tensor],
    left: Tensor,
    right: Tensor,
    curvature: Curvature,
    largest: float,
) -> Tensor | None:
    """The tangent of exp₀(left) ⊕ exp₀(right) for tangents (B, D, …), or None.

    Args:
        definition: What must run where the answer is None, and what gradients go through that will
            be differentiated again.
        left: a.
        right: b.
        curvature: c.
        largest: Where τ of each ends.
    """
    if left.shape != right.shape or not by_hand(curvature, left, right):
        return None
    left = laid_out(left)
    right = laid_out(right, like=left)
    return _Mobius.apply(left, right, curvature, largest, definition)  # type: ignore[return-value]


class _Mobius(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, curvature: Curvature, largest: float, definition: Any
    ) -> Tensor:
        ctx.kernel = kernel_takes("poincare", left, right)
        ctx.number, ctx.largest, ctx.definition = as_number(curvature), largest, definition
        a, b = left, right
        # An accelerator is not waited for: there vectors are always brought into range.
        if left.device.type != "cpu":
            a, b = _in_range(left)[0], _in_range(right)[0]
        out, norms, *dots = _mobius(a, b, ctx.number, largest, ctx.kernel)
        # No number where a square was too large.
        if a is left and not is_seen_within(norms, math.inf):
            a, b = _in_range(left)[0], _in_range(right)[0]
            out, norms, *dots = _mobius(a, b, ctx.number, largest, ctx.kernel)
        ctx.shortened = a is not left
        ctx.save_for_backward(left, right, tensor_or_none(curvature), norms, *dots)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        left, right, curvature, norms, *dots = ctx.saved_tensors
        number = ctx.number
        if differentiates_backward(*gradients):
            inputs = (left, right, number if curvature is None else curvature)
            return *through_definition(ctx.definition, inputs, gradients[0]), None, None
        gradient = matched(gradients[0], left)
        factors = None
        if ctx.shortened:
            (left, *factors), (right, other) = _in_range(left), _in_range(right)
            factors.append(other)
        if ctx.kernel:
            dleft, dright = torch.empty_like(left), torch.empty_like(right)
            dcurvature = left.new_empty(())
            torch.ops.archzoo_poincare.mobius_backward(
                *(gradient, left, right, number, ctx.largest, norms, dleft, dright, dcurvature)
            )
        else:
            dleft, dright, dcurvature = _mobius_backward(
                gradient, left, right, number, ctx.largest, norms, *dots
            )
        if factors is not None:
            dleft, dright = dleft * factors[0], dright * factors[1]
        dcurvature = None if curvature is None else dcurvature.view_as(curvature)
        return dleft, dright, dcurvature, None, None


def _in_range(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return tangents as the definition reads them, laid out as they were, and by what factor."""
    factor = range_factor(t, 1, longest_in_range(t))
    return laid_out(t * factor, like=t), factor


def _mobius(
    a: Tensor, b: Tensor, curvature: float, largest: float, kernel: bool
) -> tuple[Tensor, ...]:
    """Return tangents and ‖O‖², without a kernel also ‖a‖², ‖b‖² and ⟨a, b⟩."""
    if kernel:
        norms, out = a.new_empty(a.numel() // a.shape[1]), torch.empty_like(a)
        torch.ops.archzoo_poincare.mobius(a, b, curvature, largest, norms, out)
        return out, norms
    squares, both = torch.stack([squared_norm(a, 1), squared_norm(b, 1)]), inner(a, b, 1)
    boost = _Boost(squares, both, curvature, largest)
    out = (boost.right * b).addcmul_(boost.left, a)
    norms = squared_norm(out, 1)
    if not is_seen_within(squares, torch.finfo(a.dtype).max ** SQUARE_RANGE):
        norms = norms * math.nan
    out.mul_(asinhc_value(norms).mul_(0.5 / math.sqrt(curvature)))
    return out, norms, squares, both


class _Boost:
    """O = left · a + right · b, and what its gradient needs; pairs are of a and b."""

    def __init__(self, squares: Tensor, both: Tensor, c: float, largest: float) -> None:
        root = 2 * math.sqrt(c)
        self.taus = 4 * c * squares
        self.capped = capped(self.taus, largest)
        self.own, self.right = root * self.capped.factor
        self.times = self.capped.cosh.unbind()
        one, two = self.times
        self.above = 1 + one
        self.ratio = (two + one * two + self.own * self.right * both) / self.above
        self.left = self.ratio * self.own


def _mobius_backward(
    g: Tensor,
    a: Tensor,
    b: Tensor,
    c: float,
    largest: float,
    norms: Tensor,
    squares: Tensor,
    both: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    s = _Boost(squares, both, c, largest)
    aa, bb = squares
    root = 2 * math.sqrt(c)
    ga, gb = inner(g, a, 1), inner(g, b, 1)
    value = asinhc_value(norms)
    along, gain = s.left * ga + s.right * gb, value / root
    extra = asinhc_slope(norms, value).mul_(2 / root).mul_(along)
    dfirst = gain * ga + extra * (s.left * aa + s.right * both)
    dsecond = gain * gb + extra * (s.left * both + s.right * bb)
    dtime = dfirst * s.own / s.above
    done = dfirst * s.ratio + dtime * s.right * both
    dtwo = dsecond + dtime * s.own * both
    slope, cosh_slope = capped_slopes(s.taus, s.capped, largest)
    turns = torch.stack([dtime * (s.times[1] - s.ratio), dtime * s.above])
    dtaus = torch.stack([done, dtwo]).mul_(root).mul_(slope).addcmul_(turns, cosh_slope)
    to_a, to_b = dtaus * (8 * c)
    mixed = s.left * extra * s.right + dtime * s.own * s.right
    dleft = (g * (s.left * gain)).addcmul_(a, to_a.addcmul_(s.left.square(), extra))
    dright = (g * (s.right * gain)).addcmul_(b, to_b.addcmul_(s.right.square(), extra))
    dc = 4 * (dtaus * squares).sum()
    dc = dc + 0.5 / c * (done * s.own + dtwo * s.right - gain * along).sum()
    return dleft.addcmul_(b, mixed), dright.addcmul_(a, mixed), dc
