"""The hyperplane map with a gradient written by hand, which keeps two maps and a number per pixel.

With S, cosh of τ² per pixel (`hyperplanes`), L = asinh u and g the gradient of ω:

    du  = g a √(1 + ω²)/√(1 + u²),  0 where a|L| is held at 30
    da  = Σ g √(1 + ω²) L,  dh = −Σ cosh(τ) du,  dP = S du
    dτ² = (S'/S)(⟨du, u⟩ + cosh(τ)⟨du, h⟩) − ½S ⟨du, h⟩
    dt  = convᵀ(dP) + 2κ t boxᵀ(dτ²),  dκ = Σ dτ² τ²/κ,  κ = 4c·gain²

Three forms: single passes of a compiled kernel, its twin in Triton for CUDA, and plain PyTorch in
place. All keep t, u, ω, τ².
"""

# Shape letters: B batch, N and M channels in and out, G groups, ... pixels or nothing.

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...fast_path import (
    differentiates_backward,
    is_installed,
    kernel_takes,
    through_definition,
)
from ..maths.ball import Curvature, as_number, is_seen_within, longest_in_range
from ..maths.coordinates import LIMIT
from ..maths.hyperplanes import Place, Scale, patch_velocity, patches_in_range
from ..maths.radial import sinhc_slope, sinhc_value
from .fused_layout import as_forward, by_hand, laid_out, matched, tensor_or_none

__all__ = ["Capped", "box_numbers", "capped", "capped_slopes", "fused_patches"]


def fused_patches(
    t: Tensor,
    weight: Tensor,
    stretch: Tensor,
    shift: Tensor,
    coefficient: Curvature,
    place: Place | None,
    groups: int = 1,
    *,
    largest: float | None = None,
    scale: Scale = "distance",
) -> Tensor | None:
    """The result of `hyperplanes.patch_velocity`, or None where that must run.

    It must for a cap other than the limit, and for the angle.
    """
    tensors, rest = (t, weight, stretch, shift), (coefficient, place, groups)
    if largest is not None or scale != "distance" or not by_hand(coefficient, *tensors):
        return None
    t, stretch, shift = laid_out(t, groups), stretch.contiguous(), shift.contiguous()
    return _Planes.apply(t, weight, stretch, shift, *rest)  # type: ignore[return-value]


class _Planes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        t: Tensor,
        weight: Tensor,
        stretch: Tensor,
        shift: Tensor,
        coefficient: Tensor | float,
        place: Place | None,
        groups: int,
    ) -> Tensor:
        ctx.number = number = as_number(coefficient)
        ctx.kernel = kernel_takes("poincare", t, weight, stretch, shift)
        # An accelerator is not waited for: there vectors are always brought into range.
        held = t if t.device.type == "cpu" else _in_range(t, groups)[0]
        product, square = _sums(held, weight, place, groups, number, ctx.kernel)
        if held is t and not is_seen_within(square, number * longest_in_range(t) ** 2):
            held, _ = _in_range(t, groups)
            product, square = _sums(held, weight, place, groups, number, ctx.kernel)
        ctx.shortened = held is not t
        if ctx.kernel:
            velocity = torch.empty_like(product)
            # The product becomes u in place.
            torch.ops.archzoo_poincare.planes(
                product, square, stretch, shift, groups, product, velocity
            )
            u = product
        else:
            u, velocity = _velocity(product, square, stretch, shift, groups)
        kept = (tensor_or_none(coefficient), square, u, velocity)
        ctx.save_for_backward(t, weight, stretch, shift, *kept)
        ctx.place, ctx.groups = place, groups
        return velocity

    @staticmethod
    @as_forward
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        t, weight, stretch, shift, coefficient, square, u, velocity = ctx.saved_tensors
        number, place, groups = ctx.number, ctx.place, ctx.groups
        if differentiates_backward(*gradients):
            inputs = (t, weight, stretch, shift, number if coefficient is None else coefficient)
            found = through_definition(
                lambda t, w, a, h, k: patch_velocity(t, w, a, h, k, place, groups),
                inputs,
                gradients[0],
            )
            return *found, None, None
        gradient, factor = gradients[0], None
        if ctx.shortened:
            t, factor = _in_range(t, groups)
        if ctx.kernel:
            gradient = matched(gradient, u)
            dproduct, dsquare = torch.empty_like(u), torch.empty_like(square)
            dstretch, dshift = torch.empty_like(stretch), torch.empty_like(shift)
            torch.ops.archzoo_poincare.planes_backward(
                *(gradient, u, velocity, square, stretch, shift, groups),
                *(dproduct, dsquare, dstretch, dshift),
            )
        else:
            dproduct, dsquare, dstretch, dshift = _velocity_backward(
                gradient, u, velocity, square, stretch, shift, groups
            )
        dt, dweight = _product_backward(ctx, dproduct, t, weight)
        if dt is not None:
            if ctx.kernel:
                dt = matched(dt, t)
                torch.ops.archzoo_poincare.patch_squares_backward(
                    dsquare, t, groups, box_numbers(weight, place), number, dt
                )
            else:
                _squares_backward(dsquare, t, weight, place, groups, 2 * number, dt)
            if factor is not None:
                dt = (dt.unflatten(1, (groups, -1)) * factor).flatten(1, 2)
        dcoefficient = None
        if coefficient is not None and ctx.needs_input_grad[4]:
            dcoefficient = ((dsquare * square).sum() / number).view_as(coefficient)
        return dt, dweight, dstretch, dshift, dcoefficient, None, None


def _in_range(t: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return tangents as `patch_velocity` reads them, laid out as they were, and what factor."""
    held, factor = patches_in_range(t, groups)
    return laid_out(held, groups, like=t), factor


def _sums(
    t: Tensor, weight: Tensor, place: Place | None, groups: int, number: float, kernel: bool
) -> tuple[Tensor, Tensor]:
    """Return the product ⟨ĝ, p⟩ and τ²."""
    product = F.linear(t, weight) if place is None else F.conv2d(t, weight, None, *place, groups)
    if not kernel:
        return product, _squares(t, weight, place, groups).mul_(number)
    product = laid_out(product, groups)
    square = product.new_empty((len(product), groups, *product.shape[2:]))
    numbers = box_numbers(weight, place)
    torch.ops.archzoo_poincare.patch_squares(t, groups, numbers, number, square)
    return product, square


def box_numbers(weight: Tensor, place: Place | None) -> list[int]:
    """Return kernel, stride, padding and dilation as the kernel's eight numbers."""
    if place is None:
        return [1, 1, 1, 1, 0, 0, 1, 1]
    return [*weight.shape[2:], *place.stride, *place.padding, *place.dilation]


def _product_backward(
    ctx: Any, dproduct: Tensor, t: Tensor, weight: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    to_input, to_weight = ctx.needs_input_grad[:2]
    if ctx.place is None:
        return (
            dproduct @ weight if to_input else None,
            dproduct.mT @ t if to_weight else None,
        )
    stride, padding, dilation = ctx.place
    dt, dweight, _ = torch.ops.aten.convolution_backward(
        *(dproduct, t, weight, None, stride, padding, dilation),
        *(False, (0, 0), ctx.groups, (to_input, to_weight, False)),
    )
    return dt, dweight


def _squares(t: Tensor, weight: Tensor, place: Place | None, groups: int) -> Tensor:
    """Return Σ t² over each group's patch."""
    norms = t.square().unflatten(1, (groups, -1)).sum(2)
    if place is None:
        return norms
    return F.conv2d(norms, _box(weight, groups), None, *place, groups)


def _box(weight: Tensor, groups: int) -> Tensor:
    return weight.new_ones(1, 1, *weight.shape[2:]).expand(groups, -1, -1, -1)


def _squares_backward(
    dsquare: Tensor,
    t: Tensor,
    weight: Tensor,
    place: Place | None,
    groups: int,
    factor: float,
    dt: Tensor,
) -> None:
    """Add the gradient of t that comes from the squares."""
    dnorms = factor * dsquare
    if place is not None:
        shape = dnorms.new_empty((len(t), groups, *t.shape[2:]))
        dnorms = torch.ops.aten.convolution_backward(
            *(dnorms, shape, _box(weight, groups), None, place.stride, place.padding),
            *(place.dilation, False, (0, 0), groups, (True, False, False)),
        )[0]
    dt.unflatten(1, (groups, -1)).addcmul_(t.unflatten(1, (groups, -1)), dnorms.unsqueeze(2))


class Capped(NamedTuple):
    """What τ² gives: S of the held τ times what a longer vector shrinks by, cosh, S and τ² held."""

    factor: Tensor
    cosh: Tensor
    inner: Tensor
    held: Tensor


def capped(square: Tensor, largest: float) -> Capped:
    """Return S and cosh for τ held at `largest`, an integer."""
    held = square.clamp_max(largest**2)
    inner = sinhc_value(held)
    cosh = (held * inner.square()).add_(1).sqrt_()
    # Squares and roots of integers are exact, and so this is 1 for all τ inside.
    shrink = largest / square.clamp_min(largest**2).sqrt_()
    return Capped(shrink.mul_(inner), cosh, inner, held)


def capped_slopes(square: Tensor, of: Capped, largest: float) -> tuple[Tensor, Tensor]:
    """Return the derivatives of factor and cosh by τ²."""
    outside = square > largest**2
    inside = sinhc_slope(of.held, of.inner, of.cosh)
    slope = torch.where(outside, -0.5 * of.factor / square, inside)
    return slope, (of.inner / 2).masked_fill_(outside, 0.0)


def _by_group(square: Tensor) -> Tensor:
    """Shape τ² (B, G, …) as (B, G, 1, P)."""
    return square.flatten(2).unsqueeze(2) if square.dim() > 2 else square[:, :, None, None]


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Shape (B, M, …) as (B, G, M/G, P)."""
    return x.view(len(x), groups, x.shape[1] // groups, -1)


def _triton_takes(*tensors: Tensor) -> bool:
    """Whether the Triton twin of the kernel can run."""
    alike = all(t.is_cuda and t.dtype == torch.float32 and not t.is_neg() for t in tensors)
    return alike and is_installed("triton")


def _asinh_of_modulus(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return asinh|u| and its cosh in few passes; `torch.asinh` is some ten times slower."""
    square = u.square()
    cosh = (square + 1).sqrt_()
    return square.div_(cosh + 1).add_(u.abs()).log1p_(), cosh


def _velocity(
    product: Tensor, square: Tensor, stretch: Tensor, shift: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Return u, in place of the product, and ω."""
    of = capped(_by_group(square), LIMIT)
    product = product.contiguous()
    u = _grouped(product, groups)
    if _triton_takes(u, stretch, shift):
        from ..._kernels.poincare.poincare_triton import plane_velocity

        u, velocity = plane_velocity(u, of.factor, of.cosh, stretch, shift, LIMIT)
        return u.view_as(product), velocity.view_as(product)
    u.mul_(of.factor).addcmul_(of.cosh, shift.view(groups, -1, 1), value=-1)
    length, _ = _asinh_of_modulus(u)
    angle = length.mul_(stretch.view(groups, -1, 1)).clamp_max_(LIMIT).expm1_()
    velocity = angle.addcdiv_(angle, angle + 1).mul_(0.5).copysign_(u)
    return product, velocity.view_as(product)


def _velocity_backward(
    gradient: Tensor,
    u: Tensor,
    velocity: Tensor,
    square: Tensor,
    stretch: Tensor,
    shift: Tensor,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers = _by_group(square)
    of = capped(numbers, LIMIT)
    slope, cosh_slope = capped_slopes(numbers, of, LIMIT)
    shape = u.shape
    gradient = _grouped(gradient.contiguous(), groups)
    u, velocity = _grouped(u, groups), _grouped(velocity, groups)
    if _triton_takes(gradient, u, velocity, stretch, shift):
        from ..._kernels.poincare.poincare_triton import plane_velocity_backward

        du, with_u, with_h, dstretch, dshift = plane_velocity_backward(
            gradient, u, velocity, of.factor, of.cosh, stretch, shift, LIMIT
        )
        dsquare = slope / of.factor * (with_u + of.cosh * with_h) - cosh_slope * with_h
        return du.view(shape), dsquare.view_as(square), dstretch, dshift
    a, h = stretch.view(groups, -1, 1), shift.view(groups, -1, 1)
    pull = velocity.square().add_(1).sqrt_().mul_(gradient)
    length, cosh = _asinh_of_modulus(u)
    if float(stretch.max()) * float(length.max()) > LIMIT:
        pull.mul_(a * length <= LIMIT)
    dstretch = (length.copysign_(u).mul_(pull)).sum((0, 3))
    du = pull.mul_(a).div_(cosh)
    with_u = (du * u).sum(2, keepdim=True)
    with_h = h.mT @ du
    dshift = -(du @ of.cosh.mT).sum(0)
    dsquare = slope / of.factor * (with_u + of.cosh * with_h) - cosh_slope * with_h
    dproduct = du.mul_(of.factor).view(shape)
    return dproduct, dsquare.view_as(square), dstretch.view_as(stretch), dshift.view_as(shift)
