"""Midpoint normalisation and its gradient in plain PyTorch, by the formulas of `fused_norm`."""

# Shape letters: B batch, D channels, P pixels, N = B·P points. Numbers per point are (B, 1, P).

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..maths.coordinates import LIMIT
from ..maths.radial import asinhc_slope, asinhc_value, length, sinhc_slope, sinhc_value
from ..midpoint import NormKind, nearer_excess
from .fused_planes import Capped, capped, capped_slopes

__all__ = ["normalise_plainly", "normalise_plainly_backward"]


class _Products(NamedTuple):
    """Numbers per point that both directions need: ‖d‖², ⟨d, M⟩, ⟨d, b⟩, X, δ, X − M₀."""

    apart: Tensor
    along: Tensor
    across: Tensor
    time: Tensor
    excess: Tensor
    later: Tensor

    @property
    def seen(self) -> tuple[Tensor, Tensor, Tensor]:
        """x of `_Moves`."""
        return self.later, self.excess, self.across


def _flat(x: Tensor) -> Tensor:
    """Shape a map as (B, D, P), rows (B, D) as (1, D, B)."""
    return x.mT.unsqueeze(0) if x.dim() == 2 else x.flatten(2)


def _squared_angle(excess: Tensor) -> Tensor:
    """Return `squared_angle` where its gradient is not wanted."""
    half = excess / 2
    return asinhc_value(half).square_().mul_(half).mul_(4)


def normalise_plainly(
    velocity: Tensor,
    target: Tensor,
    variance: Tensor,
    curvature: float,
    given: tuple[Any, ...],
    eps: float,
    kind: NormKind,
) -> tuple[Tensor, ...]:
    """Return the normed points, M, (σ²c, ν), ‖O‖² and the products."""
    w = _flat(velocity)
    if kind.space:
        w = w * math.sqrt(curvature)
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
    later = (apart + 2 * along).div_(time + mean_time)
    excess = nearer_excess(apart, later, time * mean_time, both)
    products = _Products(apart, along, across, time, excess, later)
    angle = _squared_angle(excess)
    if given:
        spread = given[1]
    else:
        spread = angle.sqrt().mean().square() if kind.scale == "mean" else angle.mean()
    scale, _ = _scale(variance, spread / curvature, eps, kind)
    step = _step(products, angle, scale, _moves(mean, target, kind))
    # d was taken from νM.
    rows = torch.cat([step.q + further * step.k, step.p], 1)
    out = d.mul_(step.k)
    out = torch.baddbmm(out, torch.stack([mean, target], 1).expand(len(w), -1, -1), rows)
    if kind.space:
        norm = spread
        out.div_(math.sqrt(curvature))
    else:
        norm = out.square().sum(1, keepdim=True)
        out.mul_(asinhc_value(norm).mul_(0.5 / math.sqrt(curvature)))
    out = out.squeeze(0).mT.contiguous() if velocity.dim() == 2 else out.view_as(velocity)
    return out, mean, torch.stack([spread, nu]), norm, *products


def _scale(variance: Tensor, spread: Tensor, eps: float, kind: NormKind) -> tuple[Tensor, Tensor]:
    """Return s and what γ is divided by in it, given σ²."""
    if kind.scale == "mean":
        inner = spread.sqrt() + eps
        return variance / inner, inner
    inner = spread + eps
    return (variance / inner).sqrt(), inner


class _Moves(NamedTuple):
    """How x = (X − M₀, δ, ⟨d, b⟩) moves a point: q = −k⟨back, x⟩, p = cosh(sρ) + k⟨on, x⟩."""

    back: tuple[Tensor | float, ...]
    on: tuple[Tensor | float, ...]


def _moves(mean: Tensor, target: Tensor, kind: NormKind) -> _Moves:
    mean_time, target_time = ((1 + x.square().sum()).sqrt() for x in (mean, target))
    both = mean @ target
    if kind.transport == "origin":
        h, r = 1 / (1 + mean_time), 1 / (1 + target_time)
        rest = -h * r * both
        return _Moves((h, h, 0.0), (rest, rest, r))
    between = mean_time * target_time - both
    n = 1 / (1 + between)
    return _Moves((n * target_time, n, -n), (-n * target_time, n * between, n))


def _moves_backward(
    mean: Tensor, target: Tensor, kind: NormKind, back: list[Tensor], on: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of M₀, B₀ and ⟨M, b⟩ by those of moves."""
    mean_time, target_time = ((1 + x.square().sum()).sqrt() for x in (mean, target))
    both = mean @ target
    if kind.transport == "origin":
        h, r, rest = 1 / (1 + mean_time), 1 / (1 + target_time), on[0] + on[1]
        dmean_time = -h * h * (back[0] + back[1] - r * both * rest)
        return dmean_time, -r * r * (on[2] - h * both * rest), -h * r * rest
    n = 1 / (1 + mean_time * target_time - both)
    slope = target_time * (back[0] - on[0]) + back[1] - on[1] - back[2] + on[2]
    dbetween = -n * n * slope
    return target_time * dbetween, mean_time * dbetween + n * (back[0] - on[0]), -dbetween


def _along(by: tuple[Tensor | float, ...], x: tuple[Tensor, ...]) -> Tensor:
    return by[0] * x[0] + by[1] * x[1] + by[2] * x[2]


class _Step(NamedTuple):
    k: Tensor
    q: Tensor
    p: Tensor
    back: Tensor
    on: Tensor
    own: Tensor
    slow: Tensor
    scaled: Tensor
    of_scaled: Capped


def _step(of: _Products, angle: Tensor, scale: Tensor, moves: _Moves) -> _Step:
    scaled = scale.square() * angle
    held = capped(scaled, LIMIT)
    own = sinhc_value(angle)
    slow = scale / own
    k = held.factor * slow
    back, on = _along(moves.back, of.seen), _along(moves.on, of.seen)
    return _Step(k, -k * back, held.cosh + k * on, back, on, own, slow, scaled, held)


def normalise_plainly_backward(
    gradient: Tensor,
    velocity: Tensor,
    target: Tensor,
    variance: Tensor,
    curvature: float,
    eps: float,
    batch: bool,
    kind: NormKind,
    mean: Tensor,
    moments: Tensor,
    norm: Tensor,
    *numbers: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of the points, b, γ, c, M and σ²c; that of c is at fixed velocities."""
    of = _Products(*numbers)
    spread, nu = moments.unbind()
    w, g = _flat(velocity), _flat(gradient)
    size = math.sqrt(curvature)
    if kind.space:
        w = w * size
    mean_time, target_time = ((1 + x.square().sum()).sqrt() for x in (mean, target))
    both = mean @ target
    scale, inner = _scale(variance, spread / curvature, eps, kind)
    angle = _squared_angle(of.excess)
    moves = _moves(mean, target, kind)
    step = _step(of, angle, scale, moves)
    k, q, p = step.k, step.q, step.p

    pair = torch.stack([mean, target])
    gm, gb = (pair @ g).unsqueeze(2).unbind(1)
    gd = (w - mean.view(-1, 1)).mul_(g).sum(1, keepdim=True)
    with_out = k * gd + q * gm + p * gb
    if kind.space:
        gain, extra = torch.full_like(k, 1 / size), torch.zeros_like(k)
    else:
        value = asinhc_value(norm)
        gain, extra = 0.5 / size * value, asinhc_slope(norm, value) * with_out / size
    out_d = k * of.apart + q * of.along + p * of.across
    out_m = k * of.along + q * mean.square().sum() + p * both
    out_b = k * of.across + q * both + p * target.square().sum()
    dq, dp = gain * gm + extra * out_m, gain * gb + extra * out_b
    dk = gain * gd + extra * out_d
    dk = dk - dq * step.back + dp * step.on
    to_back, to_on = -k * dq, k * dp
    dlater, dmoved, dacross = (
        b * to_back + n * to_on for b, n in zip(moves.back, moves.on, strict=True)
    )
    to_mean_time, to_target_time, to_both = _moves_backward(
        *(mean, target, kind),
        *([(by * x).sum() for x in of.seen] for by in (to_back, to_on)),
    )
    slope, cosh_slope = capped_slopes(step.scaled, step.of_scaled, LIMIT)
    dscaled = dp * cosh_slope + dk * step.slow * slope
    own_slope = sinhc_slope(angle, step.own, 1 + of.excess)
    dangle = scale.square() * dscaled - dk * k * own_slope / step.own
    clamped = (of.excess == 0) & (of.apart != 0)
    to_spread = (2 / step.own).masked_fill_(clamped, 0.0)
    # What is held at zero passes nothing on.
    dexcess = (dmoved + (2 / step.own) * dangle).masked_fill_(clamped, 0.0)
    dscale = (2 * scale * (angle * dscaled).sum()) + (dk * k).sum() / scale
    power = 1.0 if kind.scale == "mean" else 0.5
    dinner = -power * dscale * scale / inner
    dspread = each = dinner / curvature
    if kind.scale == "mean":
        distance, rho = (spread / curvature).sqrt(), length(angle)
        dspread = torch.where(distance > 0, 0.5 * dspread / distance, 0.0)
        each = dinner / size
        to_spread = torch.where(rho > 0, 0.5 * to_spread / rho, 0.0)
    if batch:
        dexcess = dexcess + (each / of.time.numel()) * to_spread

    slow = k * extra
    gains = torch.cat([(q - k) * gain, p * gain], 1)
    selves = torch.cat([slow * (q - k) - dexcess, slow * p + dacross], 1)
    over_mean, over_target = ((g @ gains.mT) + (w @ selves.mT)).sum(0).unbind(1)
    # O = k ω + (q − k) M + p b.
    rest = extra * (q - k)
    mm, mb, bb = (rest * (q - k)).sum(), (rest * p).sum(), (extra * p * p).sum()
    moved = to_both - dacross.sum()
    dmean_time = (of.time * dexcess).sum() - dlater.sum() + to_mean_time
    dmean = over_mean + mm * mean + (mb + moved) * target + dmean_time / mean_time * mean
    dtarget = over_target + (mb + moved) * mean + bb * target
    dtarget = dtarget + to_target_time / target_time * target
    turn_time = dlater + mean_time * dexcess
    vectors, rows = [mean, target], [selves]
    if batch:
        count = of.time.numel()
        dnu = -(dmean @ mean) / nu
        turn_time = turn_time + mean_time * dnu / count
        vectors.append((dmean / nu - dnu * mean) / count)
        rows.append(torch.ones_like(turn_time))
    dvelocity = (g * (gain * k)).addcmul_(w, slow * k + turn_time / of.time)
    columns = torch.stack(vectors, 1).expand(len(w), -1, -1)
    dvelocity = dvelocity.baddbmm_(columns, torch.cat(rows, 1))
    if kind.space:
        dvelocity.mul_(size)
    if velocity.dim() == 2:
        dvelocity = dvelocity.squeeze(0).mT
    dvariance = power * dscale * scale / variance
    dcurvature = -(dspread * spread + 0.5 * (gain * with_out).sum()) / curvature
    return dvelocity.view_as(velocity), dtarget, dvariance, dcurvature, dmean, dspread
