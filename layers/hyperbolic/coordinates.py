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
    "Coordinates",
    "ball_to_velocity",
    "check_coordinates",
    "tangent_to_velocity",
    "velocity_to_ball",
    "velocity_to_tangent",
]

Coordinates = Literal["tangent", "velocity"]
"""What two layers may exchange. Velocities save a logarithm and an exponential between them; they
grow like e^τ, so that float16, which ends at τ = 11.8, has no room for them."""


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


def check_coordinates(name: str, coordinates: str) -> None:
    """Refuse coordinates that layers do not exchange.

    Raises:
        ValueError: anything but `tangent` and `velocity`; `name` is the argument's.
    """
    if coordinates not in ("tangent", "velocity"):
        raise ValueError(f"{name} must be 'tangent' or 'velocity', got {coordinates!r}")
