"""Midpoint normalisation with a gradient written by hand, which keeps ω and some numbers per pixel.

With out = f O, O = k d + q M + p b, d = ω − M (`norm`), f = asinh(‖O‖)/(2√c‖O‖), G the gradient of
out, and x = ρ², y = s²x:

    dO = f G + e O,  e = 2 f'⟨G, O⟩;  dk = ⟨dO, d⟩, dq = ⟨dO, M⟩, dp = ⟨dO, b⟩ and, n = 1/(1 + g):
    dη = −k n (dq + dp),  dg = −n q (dq + dp),  dδ = k n (g dp − dq) + (2ρ/sinh ρ) dx
    dk += −dq (η + δ) n + dp (δ g − η) n,  dy = dp C' + dk k'(y),  dx = s² dy − dk k S'(x)/S(x)
    ds = Σ 2 s x dy + dk k/s,  dσ² = −½ s ds/(σ² + ε),  which adds (2ρ/sinh ρ) dσ²c/N to dδ
    dω = k dO − dη b − dδ M + (B₀ dη + M₀ dδ) ω/X
    dM = Σ (q − k) dO − dδ ω + (dη − dg) b + (B₀(dg − dη) + X dδ) M/M₀
    db = Σ p dO − dη d − dg M + ((X − M₀) dη + M₀ dg) b/B₀
    batch's own M = m/ν, m = mean ω:  dν = −⟨dM, M⟩/ν,  dω += (dM/ν − dν M + M₀ dν ω/X)/N

Two forms: three passes forward and two backward of a compiled kernel, and plain PyTorch. The
running statistics move by a kernel too.
"""

# Shape letters: B batch, D channels, P pixels, N = B·P points. Numbers per point are (B, 1, P).

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..coordinates import LIMIT
from ..maths.ball import Curvature, as_number
from ..maths.radial import asinhc_slope, asinhc_value, sinhc_slope, sinhc_value
from ..midpoint import nearer_excess
from .fused_layout import as_forward, by_hand, laid_out, matched, tensor_or_none
from .fused_planes import Capped, capped, capped_slopes
from .fused_weights import point_velocity

__all__ = ["move_midpoint", "normalise"]

Definition = Callable[..., tuple[Tensor, Tensor, Tensor]]


def normalise(
    definition: Definition,
    velocity: Tensor,
    mean: Tensor,
    variance: Tensor,
    curvature: Curvature,
    midpoint: Tensor | None,
    spread: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Tangents, M and σ²c of `norm.normalised_tangents`, or None where that must run.

    Args:
        definition: It, through which gradients go that will be differentiated again.
        velocity: ω (B, D, …).
        mean: The tangent of β (D,).
        variance: γ.
        curvature: c.
        midpoint: M (D,), or None for the batch's.
        spread: σ²c, or None for the batch's.
        eps: Added to σ².
    """
    given = () if midpoint is None or spread is None else (midpoint, spread)
    if not by_hand(curvature, velocity, mean, variance, *given):
        return None
    return _Normalise.apply(  # type: ignore[return-value]
        *(laid_out(velocity), point_velocity(mean, curvature), variance, curvature),
        *((given[0].contiguous(), given[1]) if given else (None, None)),
        *(eps, definition),
    )


def move_midpoint(
    midpoint: Tensor,
    variance: Tensor,
    now: Tensor,
    spread: Tensor,
    curvature: Curvature,
    weight: float | Tensor,
) -> bool:
    """Move running statistics, a tangent and σ², in place towards a batch's velocity M and σ²c.

    Returns:
        Whether that was done.
    """
    given = (now, spread, midpoint, variance)
    takes = midpoint.is_contiguous() and by_hand(curvature, *given)
    if not (takes and kernel_takes("poincare", *given)):
        return False
    torch.ops.archzoo_poincare.move_midpoint(
        now.contiguous(), spread, as_number(curvature), as_number(weight), midpoint, variance
    )
    return True


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        velocity: Tensor,
        target: Tensor,
        variance: Tensor,
        curvature: Curvature,
        mean: Tensor | None,
        spread: Tensor | None,
        eps: float,
        definition: Definition,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.number, ctx.eps, ctx.definition = as_number(curvature), eps, definition
        ctx.batch = mean is None or spread is None
        given = () if mean is None or spread is None else (mean, spread)
        ctx.kernel = kernel_takes("poincare", velocity, target, variance, *given)
        if ctx.kernel:
            moments = velocity.new_ones(2)
            if mean is None or spread is None:
                found = torch.empty_like(target)
            else:
                found, moments[0] = mean, spread
            # ‖O‖², X, ‖d‖², ⟨d, M⟩ and ⟨d, b⟩ of each point.
            numbers = velocity.new_empty(5, velocity.numel() // len(target))
            out = torch.empty_like(velocity)
            torch.ops.archzoo_poincare.normalise(
                *(velocity, target, variance, ctx.number, eps, ctx.batch),
                *(found, moments, numbers, out),
            )
            kept = (found, moments, numbers)
        else:
            arguments = (velocity, target, variance, ctx.number, given, eps)
            out, found, moments, *kept = _normalise(*arguments)
            kept = (found, moments, *kept)
        inputs = (velocity, target, variance, tensor_or_none(curvature), mean, spread)
        ctx.save_for_backward(*inputs, *kept)
        ctx.mark_non_differentiable(found, spread_of := moments[0].clone())
        return out, found, spread_of

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:  # type: ignore[override]
        velocity, target, variance, curvature, mean, spread, *kept = ctx.saved_tensors
        number, eps = ctx.number, ctx.eps
        if differentiates_backward(gradient):
            curved = number if curvature is None else curvature
            found = through_definition(
                lambda w, b, v, c, m, s: ctx.definition(w, b, v, c, m, s, eps)[0],
                (velocity, target, variance, curved, mean, spread),
                gradient,
            )
            return *found, None, None
        gradient = matched(gradient, velocity)
        if ctx.kernel:
            dvelocity, dmean = torch.empty_like(velocity), torch.empty_like(target)
            dtarget, scalars = torch.empty_like(target), velocity.new_empty(3)
            torch.ops.archzoo_poincare.normalise_backward(
                *(gradient, velocity, target, variance, number, eps, ctx.batch),
                *(*kept, dvelocity, dtarget, dmean, scalars),
            )
            dvariance, dcurvature, dspread = scalars.unbind()
        else:
            dvelocity, dtarget, dvariance, dcurvature, dmean, dspread = _normalise_backward(
                gradient, velocity, target, variance, number, eps, ctx.batch, *kept
            )
        dcurvature = None if curvature is None else dcurvature.view_as(curvature)
        given = (None, None) if ctx.batch else (dmean, dspread)
        return dvelocity, dtarget, dvariance.view_as(variance), dcurvature, *given, None, None


class _Products(NamedTuple):
    """Numbers per point that both directions need: ‖d‖², ⟨d, M⟩, ⟨d, b⟩, X, δ, X − M₀, η."""

    apart: Tensor
    along: Tensor
    across: Tensor
    time: Tensor
    excess: Tensor
    later: Tensor
    delay: Tensor


def _flat(x: Tensor) -> Tensor:
    """Shape a map as (B, D, P), rows (B, D) as (1, D, B)."""
    return x.mT.unsqueeze(0) if x.dim() == 2 else x.flatten(2)


def _squared_angle(excess: Tensor) -> Tensor:
    """Return `midpoint.squared_angle` where its gradient is not wanted."""
    half = excess / 2
    return asinhc_value(half).square_().mul_(half).mul_(4)


def _normalise(
    velocity: Tensor,
    target: Tensor,
    variance: Tensor,
    curvature: float,
    given: tuple[Any, ...],
    eps: float,
) -> tuple[Tensor, ...]:
    """Return tangents, M, (σ²c, ν), ‖O‖² and the products."""
    w = _flat(velocity)
    mean = given[0] if given else w.mean((0, 2))
    base = mean.square().sum()
    base_time = (1 + base).sqrt()
    d = w - mean.view(-1, 1)
    # Everything about M follows from products with the mean of the velocities, which is νM.
    along, across = (torch.stack([mean, target]) @ d).unsqueeze(2).unbind(1)
    both = along + base
    apart = d.square().sum(1, keepdim=True)
    time = w.square().sum(1, keepdim=True).add_(1).sqrt_()
    further = base.new_zeros(())
    nu = base.new_ones(())
    if not given:
        later = (apart + 2 * along).div_(time + base_time)
        excess = nearer_excess(apart, later, time * base_time, both).mean()
        square = excess * (2 + excess / base_time.square())
        nu = (1 + square).sqrt()
        further = square / (1 + nu)  # ν − 1
        share = further / nu
        apart = apart + 2 * share * along + share.square() * base
        across = across + share * (mean @ target)
        along = (along + share * base) / nu
        both = both / nu
        mean = mean / nu
    mean_time = (1 + mean.square().sum()).sqrt()
    target_time = (1 + target.square().sum()).sqrt()
    later = (apart + 2 * along).div_(time + mean_time)
    excess = nearer_excess(apart, later, time * mean_time, both)
    angle = _squared_angle(excess)
    spread = given[1] if given else angle.mean()
    scale = (variance / (spread / curvature + eps)).sqrt()
    delay = target_time * later - across
    step = _step(excess, angle, delay, scale, mean_time * target_time - mean @ target)
    # d was taken from νM.
    rows = torch.cat([step.q + further * step.k, step.p], 1)
    out = d.mul_(step.k)
    out = torch.baddbmm(out, torch.stack([mean, target], 1).expand(len(w), -1, -1), rows)
    norm = out.square().sum(1, keepdim=True)
    out.mul_(asinhc_value(norm).mul_(0.5 / math.sqrt(curvature)))
    out = out.squeeze(0).mT.contiguous() if velocity.dim() == 2 else out.view_as(velocity)
    products = _Products(apart, along, across, time, excess, later, delay)
    return out, mean, torch.stack([spread, nu]), norm, *products


class _Step(NamedTuple):
    k: Tensor
    q: Tensor
    p: Tensor
    own: Tensor
    slow: Tensor
    scaled: Tensor
    of_scaled: Capped


def _step(excess: Tensor, angle: Tensor, delay: Tensor, scale: Tensor, between: Tensor) -> _Step:
    scaled = scale.square() * angle
    of = capped(scaled, LIMIT)
    own = sinhc_value(angle)
    slow = scale / own
    k = of.factor * slow
    share = 1 / (1 + between)
    q = k * (delay + excess) * -share
    p = of.cosh + k * (excess * between - delay) * share
    return _Step(k, q, p, own, slow, scaled, of)


def _normalise_backward(
    gradient: Tensor,
    velocity: Tensor,
    target: Tensor,
    variance: Tensor,
    curvature: float,
    eps: float,
    batch: bool,
    mean: Tensor,
    moments: Tensor,
    norm: Tensor,
    *numbers: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of ω, b, γ, c, M and σ²c."""
    of = _Products(*numbers)
    spread, nu = moments.unbind()
    w, g = _flat(velocity), _flat(gradient)
    mean_time, target_time = ((1 + x.square().sum()).sqrt() for x in (mean, target))
    both = mean @ target
    between = mean_time * target_time - both
    inner = spread / curvature + eps
    scale = (variance / inner).sqrt()
    angle = _squared_angle(of.excess)
    step = _step(of.excess, angle, of.delay, scale, between)
    k, q, p, share = step.k, step.q, step.p, 1 / (1 + between)

    pair = torch.stack([mean, target])
    gm, gb = (pair @ g).unsqueeze(2).unbind(1)
    gd = (w - mean.view(-1, 1)).mul_(g).sum(1, keepdim=True)
    value = asinhc_value(norm)
    root = 0.5 / math.sqrt(curvature)
    with_out = k * gd + q * gm + p * gb
    gain, extra = root * value, 2 * root * asinhc_slope(norm, value) * with_out
    out_d = k * of.apart + q * of.along + p * of.across
    out_m = k * of.along + q * mean.square().sum() + p * both
    out_b = k * of.across + q * both + p * target.square().sum()
    dq, dp = gain * gm + extra * out_m, gain * gb + extra * out_b
    dk = gain * gd + extra * out_d
    dk = dk + share * (dp * (of.excess * between - of.delay) - dq * (of.delay + of.excess))
    ddelay = (dq + dp) * k * -share
    dbetween = -((dq + dp) * q).sum() * share
    slope, cosh_slope = capped_slopes(step.scaled, step.of_scaled, LIMIT)
    dscaled = dp * cosh_slope + dk * step.slow * slope
    own_slope = sinhc_slope(angle, step.own, 1 + of.excess)
    dangle = scale.square() * dscaled - dk * k * own_slope / step.own
    # A clamped excess passes nothing on.
    to_spread = (2 / step.own).masked_fill_((of.excess == 0) & (of.apart != 0), 0.0)
    dexcess = to_spread * (dangle + (k * share) * (between * dp - dq) * (step.own / 2))
    dscale = (2 * scale * (angle * dscaled).sum()) + (dk * k).sum() / scale
    dinner = -0.5 * dscale * scale / inner
    dspread = dinner / curvature
    if batch:
        dexcess = dexcess + (dspread / of.time.numel()) * to_spread

    slow = k * extra
    gains = torch.cat([(q - k) * gain, p * gain], 1)
    selves = torch.cat([slow * (q - k) - dexcess, slow * p - ddelay], 1)
    over_mean, over_target = ((g @ gains.mT) + (w @ selves.mT)).sum(0).unbind(1)
    # O = k ω + (q − k) M + p b.
    rest = extra * (q - k)
    mm, mb, bb = (rest * (q - k)).sum(), (rest * p).sum(), (extra * p * p).sum()
    moved = ddelay.sum() - dbetween
    dmean_time = (of.time * dexcess).sum() - target_time * moved
    dtarget_time = (of.later * ddelay).sum() + mean_time * dbetween
    dmean = over_mean + mm * mean + (mb + moved) * target + dmean_time / mean_time * mean
    dtarget = over_target + (mb + moved) * mean + bb * target + dtarget_time / target_time * target
    turn = target_time * ddelay + mean_time * dexcess
    vectors, rows = [mean, target], [selves]
    if batch:
        count = of.time.numel()
        dnu = -(dmean @ mean) / nu
        turn = turn + mean_time * dnu / count
        vectors.append((dmean / nu - dnu * mean) / count)
        rows.append(torch.ones_like(turn))
    dvelocity = (g * (gain * k)).addcmul_(w, slow * k + turn / of.time)
    columns = torch.stack(vectors, 1).expand(len(w), -1, -1)
    dvelocity = dvelocity.baddbmm_(columns, torch.cat(rows, 1))
    if velocity.dim() == 2:
        dvelocity = dvelocity.squeeze(0).mT
    dvariance = 0.5 * dscale * scale / variance
    dcurvature = -dinner * spread / curvature**2 - 0.5 * (gain * with_out).sum() / curvature
    return dvelocity.view_as(velocity), dtarget, dvariance, dcurvature, dmean, dspread
