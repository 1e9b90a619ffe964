"""Lift, covector, drop and linear layer of space parts, with gradients written by hand.

Lifts keep what they return, which attention keeps too, and drop what it is given: no copy is kept
for them. With X = 1 + ch, q = ‖s‖² = h(1 + X), and G, g the gradients of space and last channel:

    lift:      ds = G + g/X s                dc = −Σ g h²/(2X)
    covector:  ds = γ(G − cg/X s)            dc = −Σ γ g q/(2X)       dγ = Σ ⟨(G, g), out⟩/γ
    drop:      K = ⟨G, S⟩ f^(−3/2) [f > 1],  dS = G/√f + cK S,        dn = −cK(1 + cn)
               dc = −½ Σ K (2n(1 + cn) − ‖S‖²)
    linear:    ds = G W + ⟨G, w₀⟩ √c/X s,    dW = Gᵀs,  db = Σ G,     dw₀ = Σ e G
               dc = Σ ⟨G, w₀⟩ h/(2√c X)
"""

# Shape letters: N points, D inputs, M outputs.

import math
from typing import Any

import torch
from torch import Tensor

from ...autocast import autocasts
from ...fast_path import differentiates_backward, through_definition
from ..maths.ball import Curvature, as_number
from ..maths.space_parts import drop, lorentz_map
from .fused_layout import as_forward, by_hand, tensor_or_none

__all__ = ["fused_covector", "fused_drop", "fused_lift", "fused_map"]


def fused_lift(s: Tensor, curvature: Curvature) -> Tensor | None:
    """The result of `space_parts.lift` for s (…, D), or None where that must run."""
    return _Lift.apply(s, curvature) if by_hand(curvature, s) else None  # type: ignore[return-value]


def fused_covector(s: Tensor, curvature: Curvature, gain: Tensor | None) -> Tensor | None:
    """The result of `space_parts.covector`, or None where that must run."""
    given = () if gain is None else (gain,)
    if not by_hand(curvature, s, *given):
        return None
    return _Covector.apply(s, curvature, gain)  # type: ignore[return-value]


def fused_drop(mean: Tensor, curvature: Curvature) -> Tensor | None:
    """The result of `space_parts.drop` for [S, n] (…, D + 1), or None where that must run."""
    return _Drop.apply(mean, curvature) if by_hand(curvature, mean) else None  # type: ignore[return-value]


def fused_map(
    s: Tensor, weight: Tensor, time_weight: Tensor, bias: Tensor | None, curvature: Curvature
) -> Tensor | None:
    """The result of `space_parts.lorentz_map`, or None where that must run."""
    given = (weight, time_weight) if bias is None else (weight, time_weight, bias)
    if autocasts(s) or not by_hand(curvature, s, *given):
        return None
    flat = s.reshape(-1, s.shape[-1])
    out = _Map.apply(flat, weight, time_weight, bias, curvature)
    return out.view(*s.shape[:-1], len(weight))  # type: ignore[union-attr]


def _square(s: Tensor) -> Tensor:
    """Return ‖s‖² in one pass that writes nothing else."""
    return torch.linalg.vector_norm(s, dim=-1, keepdim=True).square_()


class _Lift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, curvature: Curvature) -> Tensor:
        c = as_number(curvature)
        out = s.new_empty(*s.shape[:-1], s.shape[-1] + 1)
        out[..., :-1] = s
        square = _square(s)
        torch.div(square, (c * square).add_(1).sqrt_().add_(1), out=out[..., -1:])
        ctx.number = c
        ctx.save_for_backward(out, tensor_or_none(curvature))
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        out, curvature = ctx.saved_tensors
        # By operations that can be differentiated again: what is kept has the graph of s.
        s, h = out[..., :-1], out[..., -1:]
        g = gradient[..., -1:]
        turn = g / (1 + (ctx.number if curvature is None else curvature) * h)
        ds = torch.addcmul(gradient[..., :-1], s, turn)
        if curvature is None:
            return ds, None
        return ds, (-0.5 * (turn * h.square()).sum()).view_as(curvature)


class _Covector(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, curvature: Curvature, gain: Tensor | None) -> Tensor:
        c = as_number(curvature)
        out = s.new_empty(*s.shape[:-1], s.shape[-1] + 1)
        time = _square(s).mul_(c).add_(1).sqrt_().neg_()
        if gain is None:
            out[..., :-1] = s
            out[..., -1:] = time
        else:
            torch.mul(s, gain, out=out[..., :-1])
            torch.mul(time, gain, out=out[..., -1:])
        ctx.number = c
        ctx.save_for_backward(out, tensor_or_none(curvature), gain)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        out, curvature, gain = ctx.saved_tensors
        c = ctx.number if curvature is None else curvature
        # γs and −γX: their quotients are those of s and −X.
        s, time = out[..., :-1], out[..., -1:]
        g, rest = gradient[..., -1:], gradient[..., :-1]
        turn = g / time
        if gain is None:
            ds = torch.addcmul(rest, s, c * turn)
        else:
            ds = torch.addcmul(rest * gain, s, gain * (c * turn))
        dcurvature = dgain = None
        if curvature is not None:
            square = s.square().sum(-1, keepdim=True)
            dcurvature = (0.5 * (turn * square).sum()).view_as(curvature)
        if gain is not None:
            dgain = ((gradient * out).sum(-1, keepdim=True) / gain).sum_to_size(gain.shape)
        return ds, dcurvature, dgain


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, curvature: Curvature) -> Tensor:
        c = as_number(curvature)
        space, n = mean[..., :-1], mean[..., -1:]
        f = (n * (2 + c * n)).sub_(_square(space)).mul_(c).add_(1)
        ctx.number = c
        ctx.save_for_backward(mean, tensor_or_none(curvature))
        return space * f.clamp_min_(1.0).rsqrt_()

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        mean, curvature = ctx.saved_tensors
        c = ctx.number
        if differentiates_backward(gradient):
            inputs = (mean, c if curvature is None else curvature)
            return tuple(through_definition(drop, inputs, gradient))
        space, n = mean[..., :-1], mean[..., -1:]
        square = _square(space)
        f = (n * (2 + c * n)).sub_(square).mul_(c).add_(1)
        scale = f.clamp_min(1.0).rsqrt_()
        along = (gradient * space).sum(-1, keepdim=True)
        along.mul_(scale).mul_(scale).mul_(scale).mul_(f > 1)
        result = torch.empty_like(mean)
        torch.mul(gradient, scale, out=result[..., :-1])
        result[..., :-1].addcmul_(space, along, value=c)
        late = c * n + 1
        torch.mul(along, late, out=result[..., -1:]).mul_(-c)
        if curvature is None:
            return result, None
        slope = (2 * n * late).sub_(square).mul_(along).sum().mul_(-0.5)
        return result, slope.view_as(curvature)


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        weight: Tensor,
        time_weight: Tensor,
        bias: Tensor | None,
        curvature: Curvature,
    ) -> Tensor:
        c = as_number(curvature)
        square = _square(s)
        h = square.div_((c * square).add_(1).sqrt_().add_(1)).squeeze(-1)
        out = s @ weight.mT if bias is None else torch.addmm(bias, s, weight.mT)
        ctx.number = c
        ctx.save_for_backward(s, weight, time_weight, bias, tensor_or_none(curvature), h)
        return out.addr_(h, time_weight, alpha=math.sqrt(c))

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        s, weight, time_weight, bias, curvature, h = ctx.saved_tensors
        c = ctx.number
        if differentiates_backward(gradient):
            inputs = (s, weight, time_weight, bias, c if curvature is None else curvature)
            return tuple(through_definition(lorentz_map, inputs, gradient))
        root = math.sqrt(c)
        turn = (gradient @ time_weight).div_((c * h).add_(1))
        ds = (gradient @ weight).addcmul_(s, (root * turn)[:, None])
        dbias = None if bias is None else gradient.sum(0)
        dcurvature = None
        if curvature is not None:
            dcurvature = ((turn @ h) / (2 * root)).view_as(curvature)
        return ds, gradient.mT @ s, root * (h @ gradient), dbias, dcurvature
