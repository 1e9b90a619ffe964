"""The convolution of space parts with its gradient written by hand.

With X = √(1 + c box), e = √c box/(1 + X), t = Σ_m G w₀ over the channels of a gradient G, and boxᵀ
the transpose of the box filter:

    ds = convᵀ(G) + s boxᵀ(√c t/X),    dw₀ = Σ e G,    dc = Σ t box/(2√c X (1 + X))

Each is one pass over a map, where the definition makes several that it keeps.
"""

# Shape letters: B batch, N and M channels in and out.

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...autocast import autocasts
from ...fast_path import differentiates_backward, through_definition
from ..maths.ball import Curvature, as_number, squared_norm
from ..maths.hyperplanes import Place
from .fused_layout import as_forward, by_hand, tensor_or_none

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
    out = _Conv.apply(s, weight, time_weight, bias, curvature, place, definition)
    return out  # type: ignore[return-value]


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
        norms = squared_norm(s, 1)
        ones = norms.new_ones(1, 1, *weight.shape[2:])
        box = F.conv2d(norms, ones, None, *place)
        excess = box / (c * box).add_(1).sqrt_().add_(1)
        out = F.conv2d(s, weight, bias, *place)
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
