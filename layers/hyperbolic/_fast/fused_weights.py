"""What layers make of their parameters, in one call each way instead of some twenty.

Hyperplanes (`hyperplanes`) with a gain, F = gain · s cosh(s r)/‖z‖, s = 2√c; D, da, dh are the
gradients of ĝ = F z, a = 2‖z‖, h = sinh(s r):

    dz = F D + (2 da − ⟨D, z⟩ F/‖z‖) z/‖z‖,  dr = s (⟨D, z⟩ gain · s sinh(s r)/‖z‖ + dh cosh(s r))

and the velocity s S(s²‖t‖²) t of one tangent. Only kernels gain by it; otherwise the definitions
run.
"""

from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number
from ..maths.coordinates import tangent_to_velocity
from ..maths.hyperplanes import Hyperplanes, hyperplanes
from .fused_layout import as_forward, by_hand, matched, tensor_or_none

__all__ = ["fused_hyperplanes", "point_velocity"]


def fused_hyperplanes(
    weight: Tensor, offset: Tensor | None, curvature: Curvature, gain: float = 1.0
) -> Hyperplanes | None:
    """The result of `hyperplanes`, or None where that must run."""
    given = (weight,) if offset is None else (weight, offset)
    if by_hand(curvature, *given) and kernel_takes("poincare", *given):
        given = (weight.contiguous(), None if offset is None else offset.contiguous())
        return Hyperplanes(*_Weights.apply(*given, curvature, gain))  # type: ignore[misc]
    return None


def point_velocity(t: Tensor, curvature: Curvature) -> Tensor:
    """Return the velocity of one tangent (D,)."""
    if by_hand(curvature, t) and kernel_takes("poincare", t):
        return _Point.apply(t.contiguous(), curvature)  # type: ignore[return-value]
    return tangent_to_velocity(t, curvature)


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, offset: Tensor | None, curvature: Curvature, gain: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(weight, offset, tensor_or_none(curvature))
        ctx.number, ctx.gain = as_number(curvature), gain
        direction = torch.empty_like(weight)
        stretch, shift = (weight.new_empty(len(weight)) for _ in range(2))
        torch.ops.archzoo_poincare.hyperplanes(
            weight, _or_empty(offset, weight), ctx.number, gain, direction, stretch, shift
        )
        return direction, stretch, shift

    @staticmethod
    @as_forward
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        weight, offset, curvature = ctx.saved_tensors
        number, gain = ctx.number, ctx.gain
        if differentiates_backward(*gradients):
            found = through_definition(
                lambda z, r, c: hyperplanes(z, r, c, gain),
                (weight, offset, number if curvature is None else curvature),
                gradients,
            )
            return *found, None
        given = _or_empty(offset, weight)
        dweight, doffset = torch.empty_like(weight), torch.empty_like(given)
        dcurvature = weight.new_empty(())
        row = weight.new_empty(len(weight))
        torch.ops.archzoo_poincare.hyperplanes_backward(
            *(matched(*pair) for pair in zip(gradients, (weight, row, row), strict=True)),
            *(weight, given, number, gain, dweight, doffset, dcurvature),
        )
        dcurvature = None if curvature is None else dcurvature.view_as(curvature)
        return dweight, doffset if offset is not None else None, dcurvature, None


def _or_empty(offset: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_empty(0) if offset is None else offset


class _Point(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, curvature: Curvature) -> Tensor:
        ctx.save_for_backward(t, tensor_or_none(curvature))
        ctx.number = as_number(curvature)
        out = torch.empty_like(t)
        torch.ops.archzoo_poincare.velocity(t, ctx.number, out)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        t, curvature = ctx.saved_tensors
        if differentiates_backward(*gradients):
            inputs = (t, ctx.number if curvature is None else curvature)
            return tuple(through_definition(tangent_to_velocity, inputs, gradients[0]))
        dt, dcurvature = torch.empty_like(t), t.new_empty(())
        torch.ops.archzoo_poincare.velocity_backward(
            matched(gradients[0], t), t, ctx.number, dt, dcurvature
        )
        return dt, None if curvature is None else dcurvature.view_as(curvature)
