"""Maps and norms of points that lie as rows, with gradients written by hand, by their outputs.

A linear layer keeps its input, which is what these return. So these keep that and a number a point,
and not what they are given. G is the gradient of out.

    tangents of space parts:   out = B s, B = A(q)/2, q = c‖s‖²,   ds = B G + c (A'/B²) ⟨G, out⟩ out
                               dc = Σ ½A' (q/c) ⟨G, out⟩/B
    norm of tangents:          out = ν g x̂, x̂ = t ρ = out/(ν g), ρ = 1/√(mean t² + ε)
                               dt = ρ (ν g G − x̂ mean⟨G, out⟩),  dg = ν Σ G x̂,  dν = Σ ⟨G, out⟩/ν

What was given is found again from what is kept, where gradients are differentiated. A gain so small
that a quotient by it says nothing leaves the norm to its definition. Only kernels gain by these.
"""

# Shape letters: D channels.

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number, is_seen_within, root, squared_norm
from ..maths.coordinates import velocity_to_tangent
from ..maths.radial import sinhc
from .fused_layout import applied, as_forward, by_hand, has_rows, tensor_or_none

__all__ = ["fused_row_norm", "fused_row_tangent"]


def fused_row_tangent(s: Tensor, curvature: Curvature) -> Tensor | None:
    """The result of `space_points.to_tangent` for s (…, D), or None where that must run."""
    if not by_hand(curvature, s) or not has_rows(s) or not kernel_takes("poincare", s):
        return None
    # Squares must be numbers; further out the definition shortens vectors first.
    most = torch.finfo(s.dtype).max ** 0.25
    if not is_seen_within(s, most) or as_number(curvature) > most:
        return None
    return applied(_Tangent, s.contiguous(), curvature)


class _Tangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, curvature: Curvature) -> Tensor:
        ctx.number = as_number(curvature)
        out, squares = torch.empty_like(s), s.new_empty(s.shape[:-1])
        torch.ops.archzoo_poincare.row_tangents(s, ctx.number, squares, out)
        ctx.save_for_backward(tensor_or_none(curvature), squares, out)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        curvature, squares, out = ctx.saved_tensors
        if differentiates_backward(gradient):
            c = ctx.number if curvature is None else curvature
            s = _given(2 * sinhc(4 * c * squared_norm(out, -1)) * out)
            return tuple(
                through_definition(
                    lambda s, c: velocity_to_tangent(root(c) * s, c), (s, c), gradient
                )
            )
        ds, slope = torch.empty_like(out), out.new_empty(())
        torch.ops.archzoo_poincare.row_tangents_backward(
            gradient.contiguous(), out, squares, ctx.number, ds, slope
        )
        return ds, None if curvature is None else slope.view_as(curvature)


def _given(x: Tensor) -> Tensor:
    """Return what was given, found again, as something that gets a gradient."""
    return x if x.requires_grad else x.detach().requires_grad_()


def fused_row_norm(t: Tensor, weight: Tensor | None, share: Curvature, eps: float) -> Tensor | None:
    """The RMS norm of t (…, D) times a number, or None where `tangent_norm` must compute it."""
    if weight is None or not by_hand(share, t, weight) or not has_rows(t):
        return None
    weight = weight.contiguous()
    if not kernel_takes("poincare", t, weight):
        return None
    least = torch.finfo(t.dtype).tiny ** 0.5
    if not float(weight.detach().abs().min()) * as_number(share) > least:
        return None
    return applied(_Norm, t.contiguous(), weight, share, eps)[0]


def _norm(t: Tensor, weight: Tensor, share: Curvature, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm and ρ."""
    inverse = (t.square().mean(-1) + eps).rsqrt()
    return share * F.rms_norm(t, t.shape[-1:], weight, eps), inverse


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, t: Tensor, weight: Tensor, share: Curvature, eps: float
    ) -> tuple[Tensor, Tensor]:
        ctx.number, ctx.eps = as_number(share), eps
        ctx.set_materialize_grads(False)
        out, inverses = torch.empty_like(t), t.new_empty(t.shape[:-1])
        torch.ops.archzoo_poincare.row_norm(t, weight, ctx.number, eps, inverses, out)
        # An output too, so that what is found from it has the graph of t.
        ctx.save_for_backward(weight, tensor_or_none(share), inverses, out)
        return out, inverses

    @staticmethod
    @as_forward
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # type: ignore[override]
        weight, share, inverses, out = ctx.saved_tensors
        gradient, second = gradients
        if gradient is None or second is not None or differentiates_backward(gradient):
            known = ctx.number if share is None else share
            t = _given(out / (known * weight * inverses[..., None]))
            both = [
                like.new_zeros(like.shape) if g is None else g
                for g, like in zip(gradients, (out, inverses), strict=True)
            ]
            found = through_definition(
                lambda t, g, n: _norm(t, g, n, ctx.eps), (t, weight, known), both
            )
            return *found, None
        dt, dweight = torch.empty_like(out), torch.empty_like(weight)
        along = out.new_empty(())
        torch.ops.archzoo_poincare.row_norm_backward(
            gradient.contiguous(), out, weight, inverses, ctx.number, dt, dweight, along
        )
        return dt, dweight, None if share is None else (along / share).view_as(share), None
