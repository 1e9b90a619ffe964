"""Lift, covector and drop of space parts, with gradients written by hand.

Lifts keep what they return, which attention keeps too, and drop what it is given: no copy is kept
for them. With X = 1 + ch, q = ‖s‖² = h(1 + X), and G, g the gradients of space and last channel:

    lift:      ds = G + g/X s                dc = −Σ g h²/(2X)
    covector:  ds = γ(G − cg/X s)            dc = −Σ γ g q/(2X)       dγ = Σ ⟨(G, g), out⟩/γ
    drop:      K = ⟨G, S⟩ f^(−3/2) [f > 1],  dS = G/√f + cK S,        dn = −cK(1 + cn)
               dc = −½ Σ K (2n(1 + cn) − ‖S‖²)

Two forms: single passes of a compiled kernel over the rows, and plain PyTorch.
"""

# Shape letters: D channels.

from typing import Any

import torch
from torch import Tensor

from ...autocast import autocasts
from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number
from ..maths.space_parts import drop
from .fused_layout import applied, as_forward, by_hand, has_rows, infers, tensor_or_none

__all__ = ["fused_attention", "fused_covector", "fused_drop", "fused_lift"]


def fused_lift(s: Tensor, curvature: Curvature) -> Tensor | None:
    """The result of `space_parts.lift` for s (…, D), or None where that must run."""
    return applied(_Lift, s, curvature) if by_hand(curvature, s) else None


def fused_covector(s: Tensor, curvature: Curvature, gain: Tensor | None) -> Tensor | None:
    """The result of `space_parts.covector`, or None where that must run."""
    given = () if gain is None else (gain,)
    if not by_hand(curvature, s, *given):
        return None
    return applied(_Covector, s, curvature, gain)


def fused_drop(mean: Tensor, curvature: Curvature) -> Tensor | None:
    """The result of `space_parts.drop` for [S, n] (…, D + 1), or None where that must run."""
    return applied(_Drop, mean, curvature) if by_hand(curvature, mean) else None


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, log_gain: Tensor, curvature: Curvature
) -> Tensor | None:
    """Attention of one query of each head to lifted keys and values, or None.

    A decoder's step in one call: covector, softmax, mean and drop. It has no gradient.

    Args:
        query: (B, H, 1, D).
        key: Lifts (B, H', S, D + 1), H' divides H.
        value: Likewise.
        log_gain: (H,).
        curvature: c.
    """
    given = query, key, value, log_gain
    if query.shape[-2] != 1 or not key.numel() or autocasts(query):
        return None
    if not infers() or not _takes(query, key, value):
        return None
    if not kernel_takes("poincare", query, log_gain):
        return None
    out = torch.empty_like(query)
    scale = query.shape[-1] ** -0.5
    torch.ops.archzoo_poincare.attend_points(*given, scale, as_number(curvature), out)
    return out


def _takes(*tensors: Tensor) -> bool:
    """Whether kernels run over the rows of tensors."""
    return all(map(has_rows, tensors)) and kernel_takes("poincare", *tensors)


def _longer(s: Tensor) -> Tensor:
    """Return room for one more channel."""
    return s.new_empty(*s.shape[:-1], s.shape[-1] + 1)


def _shorter(x: Tensor) -> Tensor:
    """Return room for one channel less, the rows in the order of x in memory."""
    return torch.empty_like(x[..., :-1])


def _gains(gain: Tensor | None, like: Tensor) -> Tensor:
    """Return the gain of each point, without a copy."""
    gain = like.new_ones(()) if gain is None else gain
    return gain.expand(*like.shape[:-1], 1)


def _square(s: Tensor) -> Tensor:
    """Return ‖s‖² in one pass that writes nothing else."""
    return torch.linalg.vector_norm(s, dim=-1, keepdim=True).square_()


class _Lift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, curvature: Curvature) -> Tensor:
        c = as_number(curvature)
        out = _longer(s)
        if _takes(s):
            torch.ops.archzoo_poincare.lift(s, c, out)
        else:
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
        if not differentiates_backward(gradient) and _takes(out, gradient):
            ds, slope = _shorter(out), out.new_empty(())
            torch.ops.archzoo_poincare.lift_backward(gradient, out, ctx.number, ds, slope)
            return ds, None if curvature is None else slope.view_as(curvature)
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
        out = _longer(s)
        if _takes(s) and (gain is None or _takes(gain)):
            torch.ops.archzoo_poincare.covector(s, _gains(gain, s), c, out)
        else:
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
        dcurvature = dgain = None
        if not differentiates_backward(gradient) and _takes(out, gradient):
            gains, ds, slope = _gains(gain, out), _shorter(out), out.new_empty(())
            along = out.new_empty(*out.shape[:-1], 1)
            torch.ops.archzoo_poincare.covector_backward(
                gradient, out, gains, ctx.number, ds, along, slope
            )
            if curvature is not None:
                dcurvature = slope.view_as(curvature)
            if gain is not None:
                dgain = (along / gain).sum_to_size(gain.shape)
            return ds, dcurvature, dgain
        c = ctx.number if curvature is None else curvature
        # γs and −γX: their quotients are those of s and −X.
        s, time = out[..., :-1], out[..., -1:]
        g, rest = gradient[..., -1:], gradient[..., :-1]
        turn = g / time
        if gain is None:
            ds = torch.addcmul(rest, s, c * turn)
        else:
            ds = torch.addcmul(rest * gain, s, gain * (c * turn))
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
        ctx.number = c
        ctx.save_for_backward(mean, tensor_or_none(curvature))
        if _takes(mean):
            out = _shorter(mean)
            torch.ops.archzoo_poincare.drop(mean, c, out)
            return out
        space, n = mean[..., :-1], mean[..., -1:]
        f = (n * (2 + c * n)).sub_(_square(space)).mul_(c).add_(1)
        return space * f.clamp_min_(1.0).rsqrt_()

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        mean, curvature = ctx.saved_tensors
        c = ctx.number
        if differentiates_backward(gradient):
            inputs = (mean, c if curvature is None else curvature)
            return tuple(through_definition(drop, inputs, gradient))
        gradient = gradient if has_rows(gradient) else gradient.contiguous()
        if _takes(mean, gradient):
            result, slope = torch.empty_like(mean), mean.new_empty(())
            torch.ops.archzoo_poincare.drop_backward(gradient, mean, c, result, slope)
            return result, None if curvature is None else slope.view_as(curvature)
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
