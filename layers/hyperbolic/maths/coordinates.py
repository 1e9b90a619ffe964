"""Four coordinates of one point, and the exact maps between them.

| name | symbol | from the tangent t at the origin | range |
| --- | --- | --- | --- |
| tangent | t | t | all of R^D |
| ball | x | tanh(√c‖t‖)/√c · t/‖t‖ | ‖x‖ < 1/√c |
| velocity | ω | sinh(τ) · t/‖t‖, τ = 2√c‖t‖ | all of R^D |
| time | X₀ | cosh τ = √(1 + ‖ω‖²) | at least 1 |

The unit proper velocity ω is √c times the space part of the point on the hyperboloid. Layers
compute in it: no point is near a boundary, and only exp(τ) limits the range (τ = 88 in float32).
The distance from the origin is τ/√c.

Source: Ungar 2008, "A gyrovector space approach to hyperbolic geometry", ch. 3.
"""

from typing import Literal

import torch
from torch import Tensor

from .ball import (
    Curvature,
    check_curvature,
    in_float32,
    in_range,
    in_range_with_squares,
    project,
    read,
    root,
    squared_norm,
)
from .radial import asinhc, sinhc

__all__ = [
    "LIMIT",
    "Coordinates",
    "ball_to_velocity",
    "cap",
    "check_coordinates",
    "held_velocity",
    "scaled_tangent",
    "tangent_to_velocity",
    "velocity_to_ball",
    "velocity_to_tangent",
]

Coordinates = Literal["tangent", "velocity"]
"""What two layers may exchange. Velocities save a logarithm and an exponential between them; they
grow like e^τ, so that float16, which ends at τ = 11.8, has no room for them."""

# Where the range of every layer ends: sinh(88) is the last float32, and squares and products of two
# velocities must stay finite. The ball projections of other libraries end at τ = 6.2 in float32.
LIMIT = 30.0


@in_float32
def tangent_to_velocity(t: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return ω = 2√c sinh(τ)/τ t; infinite or NaN, and never short, beyond τ = 88 in float32.

    Layers take such tangents at τ = 30, where products of velocities still are numbers.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    return 2 * root(curvature) * sinhc(4 * curvature * squared_norm(t, dim)) * t


@in_float32
def velocity_to_tangent(velocity: Tensor, curvature: Curvature, *, dim: int = -1) -> Tensor:
    """Return t = asinh(‖ω‖)/‖ω‖ ω/(2√c), for any finite ω.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    velocity, square, factor = in_range_with_squares(velocity, dim)
    ratio = asinhc(square)
    if isinstance(factor, Tensor):
        # asinh is a logarithm out there: what shortened the vector is added again.
        ratio = ratio - factor.log() * square.clamp_min(1.0).rsqrt()
    return ratio / (2 * root(curvature)) * velocity


@in_float32
def velocity_to_ball(
    velocity: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return x = ω/(√c (1 + X₀)), held inside the margin.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    velocity = in_range(velocity, dim)
    point = velocity / (root(curvature) * (1 + (1 + squared_norm(velocity, dim)).sqrt()))
    return project(point, curvature, dim=dim, margin=margin)


@in_float32
def ball_to_velocity(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Return ω = √c λ_x x, points read as in `poincare`.

    Raises:
        ValueError: a curvature that is not positive, or a dtype other than a float's.
    """
    check_curvature(curvature)
    x, room = read(x, curvature, dim, margin)
    return 2 * root(curvature) * x / room


def cap(square: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Return min(r², largest²) and the factor min(1, largest/r) for r² = square."""
    outside = square > largest**2
    factor = torch.where(outside, largest * torch.where(outside, square, 1.0).rsqrt(), 1.0)
    return square.clamp_max(largest**2), factor


def held_velocity(
    t: Tensor, curvature: Curvature, *, dim: int, largest: float = LIMIT
) -> tuple[Tensor, Tensor]:
    """Return ω and τ² of tangents; those with τ > largest are taken there, along their radius.

    Any finite tangent has a direction, also one whose square is no number.
    """
    t, square, _ = in_range_with_squares(t, dim)
    square, factor = cap(4 * curvature * square, largest)
    return 2 * root(curvature) * factor * sinhc(square) * t, square


def scaled_tangent(velocity: Tensor, factor: Curvature, groups: int = 1) -> Tensor:
    """Return λ asinh(‖ω‖)/‖ω‖ ω for velocities (B, D, …) of each group of channels.

    λ = 1/(2√c) makes tangents of velocities.
    """
    parts = velocity.unflatten(1, (groups, -1))
    return (factor * asinhc(squared_norm(parts, 2)) * parts).flatten(1, 2)


def check_coordinates(name: str, coordinates: str) -> None:
    """Refuse coordinates that layers do not exchange.

    Raises:
        ValueError: anything but `tangent` and `velocity`; `name` is the argument's.
    """
    if coordinates not in ("tangent", "velocity"):
        raise ValueError(f"{name} must be 'tangent' or 'velocity', got {coordinates!r}")
