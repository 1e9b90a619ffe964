"""What linear layers and convolutions of the ball are made of: signed distances to hyperplanes.

The layer of HNN++ sends a point x to the point whose k-th coordinate lies at the distance

    v_k = 2‖z_k‖ d(x, H_k) = (2‖z_k‖/√c) asinh(u_k)

along axis k, H_k being the hyperplane through exp₀(r_k ẑ_k) normal to z_k. From a tangent map p and
in velocities ω (`coordinates`) this is exactly

    u = S(τ²) ⟨ĝ_k, p⟩ − cosh(τ) h_k,    τ = 2√c‖p‖,    S(τ²) = sinh(τ)/τ
    ĝ_k = 2√c cosh(2√c r_k)/‖z_k‖ z_k,   h_k = sinh(2√c r_k)
    ω_k = sinh(a_k asinh(u_k)),          a_k = 2‖z_k‖

so the only sum over inputs is an ordinary linear map of p, and the only other thing needed of p is
its norm. For patches of images p is κ times the concatenated tangents: the linear map is a
convolution, and ‖p‖² is κ² times a box filter of the squared norms of the pixels.

Source: Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, eq. 6–8; Ganea et al.
2018, arXiv:1805.09112.
Differs from them: written from tangents to velocities, which needs no exponential map and no
logarithm of a patch. The scale `angle` is the layer of van der Klis et al. 2026, arXiv:2601.21529,
with U_k = 2z_k: ω_k = a_k u_k, of which sinh(a_k asinh(u_k)) is the same to first order.
"""

# Shape letters: M outputs. A scalar per point has size 1 on the axis of M.

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .ball import Curvature, is_seen_within, longest_in_range, root, squared_norm
from .coordinates import LIMIT, cap
from .radial import cosh_of_square, sinhc

__all__ = [
    "Hyperplanes",
    "Place",
    "Scale",
    "check_place",
    "check_stretch",
    "concatenation_gain",
    "hyperplane_velocity",
    "hyperplanes",
    "patch_velocity",
    "patches_in_range",
]

Scale = Literal["distance", "angle"]

# How far out, at least, a pixel stays that is shortened because its image holds a huge one.
NEAR = 1e6


class Hyperplanes(NamedTuple):
    """M hyperplanes prepared for a linear map: ĝ in the weight's shape, a and h (M,)."""

    direction: Tensor
    stretch: Tensor
    shift: Tensor


class Place(NamedTuple):
    """Where a convolution's patches lie; pairs as in `torch.nn.functional.conv2d`."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def hyperplanes(
    weight: Tensor, offset: Tensor | None, curvature: Curvature, gain: float = 1.0
) -> Hyperplanes:
    """Prepare z (M, …) and r (M,) or None, which is r = 0; the directions are multiplied by a gain.

    A row of zeros has no hyperplane; its output is 0, and its gradient is that of a tiny normal.
    """
    square = weight.flatten(1).square().sum(1)
    length = square.clamp_min(torch.finfo(weight.dtype).tiny).sqrt()
    scale = 2 * root(curvature)
    if offset is None:
        factor, shift = scale / length, torch.zeros_like(length)
    else:
        factor = scale * (scale * offset).cosh() / length
        shift = (scale * offset).sinh()
    direction = factor.view(-1, *[1] * (weight.dim() - 1)) * weight
    return Hyperplanes(direction if gain == 1.0 else gain * direction, 2 * length, shift)


def hyperplane_velocity(
    product: Tensor,
    square: Tensor,
    planes: Hyperplanes,
    *,
    dim: int = -1,
    largest: float | None = None,
    scale: Scale = "distance",
) -> Tensor:
    """Return ω from ⟨ĝ_k, p⟩ and τ²; this is the definition.

    Inputs further out than τ = 30 are taken there, along their radius, and a_k asinh(u_k) is held
    in ±30, so that values and gradients are finite for any finite input.

    Args:
        product: ⟨ĝ, p⟩ (…, M, …).
        square: τ² with size 1 on `dim`.
        planes: The hyperplanes, a and h shaped to broadcast over the product.
        dim: The axis of M.
        largest: A closer cap on τ, of the input and of the output: the ball projection of other
            libraries. None is none.
        scale: `distance` is the layer above; `angle` is linear in u: ω = a u.
    """
    capped, factor = cap(square, LIMIT if largest is None else largest)
    u = factor * sinhc(capped) * product - cosh_of_square(capped) * planes.shift
    if scale == "angle":
        velocity = planes.stretch * u
    else:
        angle = planes.stretch * u.asinh()
        velocity = angle.clamp(-LIMIT, LIMIT).sinh()
    if largest is None:
        return velocity
    _, factor = cap(squared_norm(velocity, dim), math.sinh(largest))
    return factor * velocity


def patch_velocity(
    t: Tensor,
    weight: Tensor,
    stretch: Tensor,
    shift: Tensor,
    coefficient: Curvature,
    place: Place | None,
    groups: int = 1,
    largest: float | None = None,
    scale: Scale = "distance",
) -> Tensor:
    """Return ω (B, M, …) of all patches of tangents (B, N, …); this is the definition.

    Of an image with an entry beyond 3e11 (float32; 3e92), pixels are shortened as
    `patches_in_range` says, so that any finite patch has a direction.

    Args:
        t: (B, N, H, W), or (B, N) without a place.
        weight: gain · ĝ, (M, N/G, kh, kw) or (M, N).
        stretch: a (M,).
        shift: h (M,).
        coefficient: 4c · gain², the factor between Σ t² of a patch and τ².
        place: Where patches lie; None is a linear layer.
        groups: G.
        largest: As in `hyperplane_velocity`.
        scale: As above.
    """
    # The squared norm of each group's patch: channels first, then pixels.
    if not is_seen_within(t, longest_in_range(t)):
        t = patches_in_range(t, groups)[0]
    norms = t.square().unflatten(1, (groups, -1)).sum(2)
    if place is None:
        product = F.linear(t, weight)
    else:
        product = F.conv2d(t, weight, None, *place, groups)
        ones = norms.new_ones(1, 1, *weight.shape[2:]).expand(groups, -1, -1, -1)
        norms = F.conv2d(norms, ones, None, *place, groups)
    by_group = (groups, -1, *[1] * (t.dim() - 2))
    planes = Hyperplanes(weight, stretch.view(by_group), shift.view(by_group))
    velocity = hyperplane_velocity(
        product.unflatten(1, (groups, -1)),
        coefficient * norms.unsqueeze(2),
        planes,
        dim=2,
        largest=largest,
        scale=scale,
    )
    return velocity.flatten(1, 2)


def patches_in_range(t: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return an image (B, N, …) whose squares are numbers, and what shortens each group's pixel.

    All pixels of an image shrink alike, which keeps the direction of a patch, but none that is
    further out than `NEAR` to less than that, and others not at all: beside one huge pixel they
    stay what they are.
    """
    parts = t.unflatten(1, (groups, -1))
    size = parts.detach().abs().amax(2, keepdim=True)
    whole = size.flatten(2).amax(2).view(*size.shape[:2], *[1] * (size.dim() - 2))
    least = (longest_in_range(t) / whole).clamp_max(1.0)
    factor = torch.maximum((NEAR / size).clamp_max(1.0), least)
    return (parts * factor).flatten(1, 2), factor


def check_place(t: Tensor, weight: Tensor, place: Place, groups: int) -> None:
    """Refuse numbers of a convolution that say nothing, and an image smaller than one patch.

    Raises:
        ValueError: groups that do not divide the outputs, a number out of range, no pixels, or a
            kernel that reaches further than the padded image.
    """
    if groups < 1 or len(weight) % groups:
        raise ValueError(f"groups={groups} must divide the {len(weight)} outputs")
    for (name, pair), least in zip(place._asdict().items(), (1, 0, 1), strict=True):
        if min(pair) < least:
            raise ValueError(f"{name} must be at least {least}, got {pair}")
    for size, kernel, padding, dilation in zip(
        t.shape[2:], weight.shape[2:], place.padding, place.dilation, strict=True
    ):
        if size == 0 or size + 2 * padding < dilation * (kernel - 1) + 1:
            raise ValueError(
                f"t has shape {tuple(t.shape)}, too small for kernel {tuple(weight.shape[2:])} "
                f"with padding {place.padding} and dilation {place.dilation}"
            )


def check_stretch(largest: float | None, scale: Scale) -> None:
    """Refuse a cap or a scale that no layer has.

    Raises:
        ValueError: largest outside (0, 30], or an unknown scale.
    """
    if largest is not None and not 0 < largest <= LIMIT:
        raise ValueError(f"largest must lie in (0, {LIMIT:g}] or be None, got {largest}")
    if scale not in ("distance", "angle"):
        raise ValueError(f"scale must be 'distance' or 'angle', got {scale!r}")


def concatenation_gain(width: int, total: int) -> float:
    """Return κ = B(total/2, 1/2)/B(width/2, 1/2), by which tangents shrink when concatenated.

    It keeps the expected norm of unit-variance points when parts `width` long make one `total`
    long, and is close to √(width/total).
    """

    def log_beta(n: int) -> float:
        return math.lgamma(n / 2) - math.lgamma((n + 1) / 2)

    return math.exp(log_beta(total) - log_beta(width))
