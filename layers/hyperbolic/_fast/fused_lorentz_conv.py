"""The convolution of space parts with its gradient written by hand.

With X = √(1 + c box), e = √c box/(1 + X), t = Σ_m G w₀ over the channels of a gradient G, and boxᵀ
the transpose of the box filter:

    ds = convᵀ(G) + s boxᵀ(√c t/X),    dw₀ = Σ e G,    dc = Σ t box/(2√c X (1 + X))

Each is one pass over a map, where the definition makes several that it keeps. Two forms: passes of
a compiled kernel, and plain PyTorch.
"""

# Shape letters: B batch, N and M channels in and out.

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...autocast import autocasts
from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number, squared_norm
from ..maths.hyperplanes import Place
from .fused_layout import applied, as_forward, by_hand, laid_out, matched, tensor_or_none
from .fused_planes import box_numbers

__all__ = ["fused_conv"]

Definition = Callable[..., Tensor]


def fused_conv(
    definition: Definition,
    s: Tensor,
    weight: Tensor,
    time_weight: Tensor,
    bias: Tensor | None,
    curvature: Curvature,
    place: Place,
    groups: int,
) -> Tensor | None:
    """The result of a definition of these arguments, or None where that must run."""
    given = (weight, time_weight) if bias is None else (weight, time_weight, bias)
    narrow = autocasts(s) or s.dtype.itemsize < 4
    if groups > 1 or narrow or not by_hand(curvature, s, *given):
        return None
    s, time_weight = laid_out(s), time_weight.contiguous()
    return applied(_Conv, s, weight, time_weight, bias, curvature, place, definition)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        weight: Tensor,
        time_weight: Tensor,
        bias: Tensor | None,
        curvature: Curvature,
        place: Place,
        definition: Definition,
    ) -> Tensor:
        c = as_number(curvature)
        out = laid_out(F.conv2d(s, weight, bias, *place))
        ctx.kernel = kernel_takes("poincare", s, time_weight, out)
        if ctx.kernel:
            box = out.new_empty(len(out), 1, *out.shape[2:])
            kernels = torch.ops.archzoo_poincare
            kernels.patch_squares(s, 1, box_numbers(weight, place), 1.0, box)
            kernels.add_time_map(box, time_weight, c, out)
        else:
            norms = squared_norm(s, 1)
            box = F.conv2d(norms, norms.new_ones(1, 1, *weight.shape[2:]), None, *place)
            excess = box / (c * box).add_(1).sqrt_().add_(1)
            out.addcmul_(excess, time_weight.view(-1, 1, 1), value=math.sqrt(c))
        ctx.number, ctx.place, ctx.definition = c, place, definition
        ctx.save_for_backward(s, weight, time_weight, bias, tensor_or_none(curvature), box)
        return out

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        s, weight, time_weight, bias, curvature, box = ctx.saved_tensors
        c, place = ctx.number, ctx.place
        if differentiates_backward(gradient):
            curved = c if curvature is None else curvature
            found = through_definition(
                lambda *given: ctx.definition(*given, place, 1),
                (s, weight, time_weight, bias, curved),
                gradient,
            )
            return *found, None, None
        if ctx.kernel:
            gradient = laid_out(gradient)
            ds, dweight, _ = _transposed(gradient, s, weight, None, place, weights=True)
            ds = matched(ds, s)
            dbox, slope = torch.empty_like(box), box.new_empty(())
            dtime, dbias = torch.empty_like(time_weight), torch.empty_like(time_weight)
            kernels = torch.ops.archzoo_poincare
            kernels.add_time_map_backward(gradient, box, time_weight, c, dbox, dtime, dbias, slope)
            kernels.patch_squares_backward(dbox, s, 1, box_numbers(weight, place), 1.0, ds)
            dbias = None if bias is None else dbias
            dcurvature = None if curvature is None else slope.view_as(curvature)
            return ds, dweight, dtime, dbias, dcurvature, None, None
        root = math.sqrt(c)
        ds, dweight, dbias = _transposed(gradient, s, weight, bias, place, weights=True)
        time = (c * box).add_(1).sqrt_()
        turn = (time_weight @ gradient.flatten(2)).view_as(box).div_(time)
        ones = box.new_ones(1, 1, *weight.shape[2:])
        spread, *_ = _transposed(turn, s[:, :1], ones, None, place, weights=False)
        ds.addcmul_(s, spread, value=root)
        excess = box / time.add_(1)
        dtime = (gradient.flatten(2) @ excess.flatten(2).mT).sum((0, 2)).mul_(root)
        dcurvature = None
        if curvature is not None:
            dcurvature = ((turn * excess).sum() / (2 * root)).view_as(curvature)
        return ds, dweight, dtime, dbias, dcurvature, None, None


def _transposed(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, place: Place, *, weights: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of a convolution's input and, if wanted, of its weight and bias."""
    sizes = None if bias is None else [len(weight)]
    wanted = [True, weights, weights and bias is not None]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, sizes, *map(list, place), False, [0, 0], 1, wanted
    )
