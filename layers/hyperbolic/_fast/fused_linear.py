"""The linear layer of the ball in one function, which keeps its output and two numbers a point.

With F, a, h of each hyperplane and S, cosh of τ² of each point (`hyperplanes`), p = ⟨z, t⟩, and g
the gradient of ω, which the output gives back, as it gives u:

    ω = sinh(L),  u = S F p − cosh(τ) h = sinh(L/a)
    du = g a √(1 + ω²)/√(1 + u²), 0 where |L| is held at 30
    E = Σ du (u + cosh(τ) h),  dp = S F du
    da = Σ g √(1 + ω²) L/a,  dh = −Σ cosh(τ) du
    dτ² = (S'/S)(⟨du, u⟩ + cosh(τ)⟨du, h⟩) − ½S ⟨du, h⟩,   dt = dp z + 8c dτ² t
    dz = dpᵀ t + (2 da − E/‖z‖) z/‖z‖,   dr = s (E tanh(s r) + dh cosh(s r)),   s = 2√c
    dc = Σ dτ² τ²/c + Σ (E (1/s + r tanh(s r)) + dh r cosh(s r))/√c

For tangents, out = λ A(‖ω‖²) ω, g = λ (A G + 2A' ⟨G, ω⟩ ω), and for tangents and space parts, whose
λ is over √c, dc loses Σ ⟨G, out⟩/(2c). Nothing as long as the weight or the points is kept beside
what other layers keep anyway; it is worth a logarithm more. Only kernels gain by that.
"""

# Shape letters: B points, N inputs, M outputs.

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number, is_seen_within, longest_in_range
from ..maths.hyperplanes import patches_in_range
from .fused_layout import applied, as_forward, by_hand, tensor_or_none

__all__ = ["LinearOutput", "fused_linear"]

LinearOutput = Literal["tangent", "velocity", "space"]
Definition = Callable[..., Tensor]
# λ of each output, times √c where there is one.
SCALES = {"tangent": 0.5, "velocity": 1.0, "space": 1.0}


def fused_linear(
    definition: Definition,
    t: Tensor,
    weight: Tensor,
    offset: Tensor | None,
    curvature: Curvature,
    output: LinearOutput,
) -> Tensor | None:
    """The result of a definition of these arguments, for t (B, N), or None where that must run."""
    given = (t, weight) if offset is None else (t, weight, offset)
    if not by_hand(curvature, *given) or not kernel_takes("poincare", *given):
        return None
    t, weight = t.contiguous(), weight.contiguous()
    offset = None if offset is None else offset.contiguous()
    return applied(_Linear, t, weight, offset, curvature, output, definition)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        t: Tensor,
        weight: Tensor,
        offset: Tensor | None,
        curvature: Curvature,
        output: LinearOutput,
        definition: Definition,
    ) -> Tensor:
        kernels = torch.ops.archzoo_poincare
        ctx.number = c = as_number(curvature)
        ctx.output, ctx.definition = output, definition
        ctx.scale = SCALES[output] if output == "velocity" else SCALES[output] / math.sqrt(c)
        squares, norms = t.new_empty(2, len(t)).unbind()
        held = t
        kernels.row_squares(t, 4 * c, squares)
        if not is_seen_within(squares, 4 * c * longest_in_range(t) ** 2):
            held, _ = patches_in_range(t, 1)
            kernels.row_squares(held, 4 * c, squares)
        ctx.shortened = held is not t
        numbers = _numbers(weight, offset, c)
        out = F.linear(held, weight)
        kernels.linear_points(
            *(out, squares, *numbers, ctx.scale, output == "tangent"), *(norms, out)
        )
        kept = tensor_or_none(curvature), squares, norms, *numbers, out
        ctx.save_for_backward(t, weight, offset, *kept)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        t, weight, offset, curvature, squares, norms, *numbers, out = ctx.saved_tensors
        c, output = ctx.number, ctx.output
        if differentiates_backward(gradient):
            inputs = (t, weight, offset, c if curvature is None else curvature)
            found = through_definition(
                lambda t, z, r, c: ctx.definition(t, z, r, c, output=output), inputs, gradient
            )
            return *found, None, None
        kernels, factor = torch.ops.archzoo_poincare, None
        if ctx.shortened:
            t, factor = patches_in_range(t, 1)
        dproduct, dsquares = torch.empty_like(out), torch.empty_like(squares)
        sums, along = out.new_empty(3, len(weight)), out.new_empty(())
        kernels.linear_points_backward(
            *(gradient.contiguous(), out, squares, norms, *numbers, ctx.scale),
            *(output == "tangent", dproduct, dsquares, sums, along),
        )
        dt = None
        if ctx.needs_input_grad[0]:
            dt = dproduct @ weight
            kernels.row_squares_backward(dsquares, t, 4 * c, dt)
            if factor is not None:
                dt = dt * factor.squeeze(1)
        da, dh, with_z = sums.unbind()
        length = numbers[1] / 2
        dweight = dproduct.mT @ t
        dweight.addcmul_(weight, ((2 * da - with_z / length) / length)[:, None])
        scale = 2 * math.sqrt(c)
        doffset, dscale = None, with_z / scale
        if offset is not None:
            far = scale * offset
            to_angle = with_z * far.tanh() + dh * far.cosh()
            doffset, dscale = scale * to_angle, dscale + offset * to_angle
        dcurvature = None
        if curvature is not None:
            dcurvature = (dsquares @ squares) / c + dscale.sum() / math.sqrt(c)
            if output != "velocity":
                dcurvature = dcurvature - along / (2 * c)
            dcurvature = dcurvature.view_as(curvature)
        return dt, dweight, doffset, dcurvature, None, None


def _numbers(weight: Tensor, offset: Tensor | None, c: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return F, a and h."""
    factor, stretch, shift = weight.new_empty(3, len(weight)).unbind()
    offset = weight.new_empty(0) if offset is None else offset
    torch.ops.archzoo_poincare.plane_numbers(weight, offset, c, factor, stretch, shift)
    return factor, stretch, shift
