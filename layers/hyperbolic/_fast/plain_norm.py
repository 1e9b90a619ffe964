"""Midpoint normalisation and its gradient in plain PyTorch, by the formulas of `fused_norm`."""

# Shape letters: B batch, D channels, P pixels, N = B·P points. Numbers per point are (B, 1, P).

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..maths.coordinates import LIMIT
from ..maths.radial import asinhc_slope, asinhc_value, sinhc_slope, sinhc_value
from ..midpoint import nearer_excess
from .fused_planes import Capped, capped, capped_slopes

__all__ = ["normalise_plainly", "normalise_plainly_backward"]


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


def normalise_plainly(
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


def normalise_plainly_backward(
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
