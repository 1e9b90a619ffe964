"""The pointwise part of hyperplane layers for CUDA: the twin of `planes.h`, one pass each way.

A program takes a block of pixels of one image with all its channels, so that sums over channels
stay in registers. `tl` has no log1p and no expm1; both are written after Kahan, who divides the
rounding of 1 + y, or of e^x, out again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["plane_velocity", "plane_velocity_backward"]

BLOCK = 128


@triton.jit
def _log1p(y):
    whole = 1.0 + y
    exact = whole == 1.0
    return tl.where(exact, y, tl.log(whole) * (y / tl.where(exact, 1.0, whole - 1.0)))


@triton.jit
def _expm1(x):
    power = tl.exp(x)
    exact = (power == 1.0) | (x > 1.0)
    ratio = x / tl.where(exact, 1.0, tl.log(tl.where(exact, 2.0, power)))
    return tl.where(power == 1.0, x, tl.where(x > 1.0, power - 1.0, (power - 1.0) * ratio))


@triton.jit
def _asinh(v):
    # Not `tl.minimum`, which drops NaN.
    v = tl.where(v > 1e18, 1e18, v)
    return _log1p(v + v * v / (1.0 + tl.sqrt(1.0 + v * v)))


@triton.jit
def _forward(
    product,
    along,
    cosh,
    stretch,
    shift,
    u,
    velocity,
    channels,
    pixels,
    groups,
    limit,
    BLOCK: tl.constexpr,
):
    # 64 bits: a map may hold more numbers than 32 can count.
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(pixels, BLOCK)
    image = program // blocks
    pixel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    number = image * pixels + pixel
    factor = tl.load(along + number, inside, 0.0)
    time = tl.load(cosh + number, inside, 1.0)
    first = image % groups * channels
    for c in range(channels):
        place = (image * channels + c) * pixels + pixel
        value = factor * tl.load(product + place, inside, 0.0) - time * tl.load(shift + first + c)
        angle = tl.load(stretch + first + c) * _asinh(tl.abs(value))
        growth = _expm1(tl.where(angle > limit, limit, angle))
        sinh = 0.5 * (growth + growth / (1.0 + growth))
        tl.store(u + place, value, inside)
        tl.store(velocity + place, tl.where(value < 0, -sinh, sinh), inside)


@triton.jit
def _backward(
    gradient,
    u,
    velocity,
    along,
    cosh,
    stretch,
    shift,
    dproduct,
    with_u,
    with_h,
    dstretch,
    dshift,
    channels,
    pixels,
    groups,
    limit,
    BLOCK: tl.constexpr,
):
    # 64 bits: a map may hold more numbers than 32 can count.
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(pixels, BLOCK)
    image = program // blocks
    pixel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    number = image * pixels + pixel
    factor = tl.load(along + number, inside, 0.0)
    time = tl.load(cosh + number, inside, 0.0)
    first = image % groups * channels
    row = program * channels
    to_u = tl.zeros([BLOCK], dtype=tl.float32)
    to_h = tl.zeros([BLOCK], dtype=tl.float32)
    for c in range(channels):
        place = (image * channels + c) * pixels + pixel
        value = tl.load(u + place, inside, 0.0)
        w = tl.load(velocity + place, inside, 0.0)
        a = tl.load(stretch + first + c)
        h = tl.load(shift + first + c)
        length = _asinh(tl.abs(value))
        pull = tl.load(gradient + place, inside, 0.0) * tl.sqrt(1.0 + w * w)
        pull = tl.where(a * length > limit, 0.0, pull)
        du = pull * a / tl.sqrt(1.0 + value * value)
        tl.store(dstretch + row + c, tl.sum(pull * tl.where(value < 0, -length, length), 0))
        tl.store(dshift + row + c, tl.sum(-time * du, 0))
        to_u += du * value
        to_h += du * h
        tl.store(dproduct + place, factor * du, inside)
    tl.store(with_u + number, to_u, inside)
    tl.store(with_h + number, to_h, inside)


def _sizes(
    product: Tensor, along: Tensor, cosh: Tensor, stretch: Tensor, shift: Tensor
) -> tuple[int, int, int, int]:
    """Return B, G, M/G and P, and refuse numbers that are not those of such a map."""
    batch, groups, channels, pixels = product.shape
    numbers, row = (batch, groups, 1, pixels), (groups * channels,)
    for name, x, shape in (
        ("along", along, numbers),
        ("cosh", cosh, numbers),
        ("stretch", stretch, row),
        ("shift", shift, row),
    ):
        if x.shape != shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {shape}")
    return batch, groups, channels, pixels


def plane_velocity(
    product: Tensor, along: Tensor, cosh: Tensor, stretch: Tensor, shift: Tensor, limit: float
) -> tuple[Tensor, Tensor]:
    """Return u and ω for float32 products (B, G, M/G, P) and numbers S, cosh (B, G, 1, P)."""
    batch, groups, channels, pixels = _sizes(product, along, cosh, stretch, shift)
    product, along, cosh = product.contiguous(), along.contiguous(), cosh.contiguous()
    u, velocity = torch.empty_like(product), torch.empty_like(product)
    # One axis of programs: others end at 65,535.
    _forward[(batch * groups * triton.cdiv(pixels, BLOCK),)](
        *(product, along, cosh, stretch.contiguous(), shift.contiguous(), u, velocity),
        *(channels, pixels, groups, limit),
        BLOCK=BLOCK,  # type: ignore[arg-type]
    )
    return u, velocity


def plane_velocity_backward(
    gradient: Tensor,
    u: Tensor,
    velocity: Tensor,
    along: Tensor,
    cosh: Tensor,
    stretch: Tensor,
    shift: Tensor,
    limit: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return S du (B, G, M/G, P), ⟨du, u⟩ and ⟨du, h⟩ (B, G, 1, P), da and dh (M,)."""
    batch, groups, channels, pixels = _sizes(u, along, cosh, stretch, shift)
    if gradient.shape != u.shape or velocity.shape != u.shape:
        raise ValueError(
            f"gradient and velocity have shapes {tuple(gradient.shape)} and "
            f"{tuple(velocity.shape)}, expected {tuple(u.shape)}"
        )
    gradient, u, velocity = gradient.contiguous(), u.contiguous(), velocity.contiguous()
    along, cosh = along.contiguous(), cosh.contiguous()
    dproduct, with_u, with_h = (torch.empty_like(x) for x in (u, along, along))
    blocks = triton.cdiv(pixels, BLOCK)
    dstretch, dshift = (u.new_empty(batch, groups, blocks, channels) for _ in range(2))
    _backward[(batch * groups * blocks,)](
        *(gradient, u, velocity, along, cosh, stretch.contiguous(), shift.contiguous()),
        *(dproduct, with_u, with_h, dstretch, dshift, channels, pixels, groups, limit),
        BLOCK=BLOCK,  # type: ignore[arg-type]
    )
    da, dh = (x.sum((0, 2)).flatten() for x in (dstretch, dshift))
    return dproduct, with_u, with_h, da, dh
