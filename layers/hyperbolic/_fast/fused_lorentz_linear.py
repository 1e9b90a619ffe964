"""The linear layer of space parts with its gradient written by hand, which keeps a number a point.

With X = 1 + ch, h of `space_parts`, e = √c h, and G the gradient of the output:

    ds = G W + ⟨G, w₀⟩ √c/X s,   dW = Gᵀs,  db = Σ G,  dw₀ = Σ e G,   dc = Σ ⟨G, w₀⟩ h/(2√c X)

Three forms: a product and one pass of a compiled kernel, which makes the product itself for the few
points of a decoder, and plain PyTorch.
"""

# Shape letters: N points, D inputs, M outputs.

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...autocast import autocasts
from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number
from ..maths.space_parts import lorentz_map
from .fused_layout import applied, as_forward, by_hand, infers, tensor_or_none

__all__ = ["fused_map"]

# Up to how many points a kernel's own product costs less than a call for it.
FEW = 2


def fused_map(
    s: Tensor, weight: Tensor, time_weight: Tensor, bias: Tensor | None, curvature: Curvature
) -> Tensor | None:
    """The result of `space_parts.lorentz_map`, or None where that must run."""
    given = (weight, time_weight) if bias is None else (weight, time_weight, bias)
    few = 0 < s.numel() <= FEW * s.shape[-1]
    if few and infers() and not torch.is_autocast_enabled("cpu") and _takes(s, *given):
        out = s.new_empty(*s.shape[:-1], weight.shape[0])
        numbers = weight, time_weight, bias, as_number(curvature)
        torch.ops.archzoo_poincare.map_points(s, *numbers, out)
        return out
    if autocasts(s) or not by_hand(curvature, s, *given):
        return None
    flat = s.reshape(-1, s.shape[-1])
    out = applied(_Map, flat, weight, time_weight, bias, curvature)
    return out.view(*s.shape[:-1], weight.shape[0])


def _takes(*tensors: Tensor) -> bool:
    """Whether kernels run on a layer's tensors."""
    for x in tensors:
        if not x.is_contiguous():
            return False
    return kernel_takes("poincare", *tensors)


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
        ctx.number = c = as_number(curvature)
        out = F.linear(s, weight, bias)
        ctx.kernel = _takes(s, time_weight, out)
        if ctx.kernel:
            h = s.new_empty(len(s))
            torch.ops.archzoo_poincare.add_time(s, time_weight, c, h, out)
        else:
            square = torch.linalg.vector_norm(s, dim=-1).square_()
            h = square.div_((c * square).add_(1).sqrt_().add_(1))
            out.addr_(h, time_weight, alpha=math.sqrt(c))
        ctx.save_for_backward(s, weight, time_weight, bias, tensor_or_none(curvature), h)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        s, weight, time_weight, bias, curvature, h = ctx.saved_tensors
        c = ctx.number
        if differentiates_backward(gradient):
            inputs = (s, weight, time_weight, bias, c if curvature is None else curvature)
            return tuple(through_definition(lorentz_map, inputs, gradient))
        ds, dweight = gradient @ weight, gradient.mT @ s
        if ctx.kernel:
            gradient = gradient.contiguous()
            dtime, dbias = torch.empty_like(time_weight), torch.empty_like(time_weight)
            dcurvature = s.new_empty(())
            torch.ops.archzoo_poincare.add_time_backward(
                gradient, s, time_weight, h, c, ds, dtime, dbias, dcurvature
            )
        else:
            root = math.sqrt(c)
            turn = (gradient @ time_weight).div_((c * h).add_(1))
            ds.addcmul_(s, (root * turn)[:, None])
            dtime, dbias = root * (h @ gradient), gradient.sum(0)
            dcurvature = (turn @ h) / (2 * root)
        dbias = None if bias is None else dbias
        dcurvature = None if curvature is None else dcurvature.view_as(curvature)
        return ds, dweight, dtime, dbias, dcurvature
