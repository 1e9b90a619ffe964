"""What every function on the Poincaré ball shares: curvature, margin, and the dtype to compute in.

A curvature here is c > 0 for the sectional curvature −c: a float, or a tensor that broadcasts over
points with the channels kept as size 1. The ball has radius 1/√c.

A margin keeps rounding from putting a point on the boundary, where distances are infinite: norms
are held at or below (1 − margin)/√c, which limits the distance from the origin to
2 atanh(1 − margin)/√c. Half precision is computed in float32 and rounded at the end, so its margin
is what one rounding of the result needs.

Results are held at the margin; a point that is read may lie beyond it by half of it, which is more
than rounding moves a result; what lies further out is taken there, along its radius. Distances only
take the room 1 − c‖x‖² there and grow on as log‖x − y‖. So points of a wider dtype, or of an
optimiser that knows no ball, keep a large finite distance.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ...autocast import autocasts, without_autocast
from ...fast_path import records_gradients

__all__ = [
    "HALF_REACH",
    "MARGINS",
    "RANGE",
    "Curvature",
    "as_number",
    "check_curvature",
    "check_points",
    "default_margin",
    "furthest_read",
    "in_float32",
    "in_range",
    "in_range_with_squares",
    "inner",
    "is_seen_within",
    "longest_in_range",
    "moved_axis",
    "project",
    "range_factor",
    "read",
    "room",
    "root",
    "shorten",
    "squared_norm",
]

Curvature = float | Tensor

MARGINS = {
    torch.float64: 1e-9,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}
"""Margin of each dtype; the farthest points lie 21, 12, 6.9 and 5.3 radii from the origin."""

HALF = (torch.float16, torch.bfloat16)

# Where a space part of the hyperboloid ends in float16: below its largest number, 65504.
HALF_REACH = 6e4

# Powers of a dtype's largest number: how long a vector may be so that products of two are numbers,
# and what a direction is read from, so that gradients of such products are numbers too.
RANGE, DIRECTION_RANGE = 0.44, 0.3

Function = TypeVar("Function", bound=Callable[..., Tensor])


def default_margin(dtype: torch.dtype) -> float:
    """Return the margin of a floating dtype.

    Raises:
        ValueError: a dtype without one, such as an integer's.
    """
    if dtype not in MARGINS:
        known = ", ".join(str(name).removeprefix("torch.") for name in MARGINS)
        raise ValueError(f"points of the ball must be of dtype {known}, got {dtype}")
    return MARGINS[dtype]


def check_curvature(curvature: Curvature) -> None:
    """Refuse a curvature that is no positive number; a tensor is taken at its word.

    Raises:
        ValueError: curvature ≤ 0, infinite or NaN.
    """
    if not isinstance(curvature, Tensor) and not 0 < curvature < math.inf:
        raise ValueError(
            f"curvature must be a positive number c (the sectional curvature is -c), got "
            f"{curvature}; for flat space use the Euclidean layer"
        )


def check_points(x: Tensor, curvature: Curvature, dim: int = -1) -> None:
    """Refuse points that are not in the open ball; looks at the data, so not for compiled code.

    Raises:
        ValueError: NaN, or a norm of 1/√c and more.
    """
    default_margin(x.dtype)
    wide = x.detach().to(torch.float64)
    scaled = (wide.square().sum(dim) * curvature).sqrt()
    if scaled.isnan().any():
        raise ValueError(f"points of the ball hold NaN in {int(scaled.isnan().sum())} places")
    if (scaled >= 1).any():
        raise ValueError(
            f"{int((scaled >= 1).sum())} points lie outside the ball of radius 1/√c: the largest "
            f"norm is {float(scaled.max()):.4g}/√c; map tangents with expmap0, or project them"
        )


def check_range(dtype: torch.dtype, side: str, coordinates: str | None) -> None:
    """Refuse float16 velocities on one side of a layer.

    Raises:
        ValueError: they would overflow at τ = 11.8.
    """
    if dtype == torch.float16 and coordinates in ("velocity", "space"):
        raise ValueError(
            f"{side}={coordinates!r} needs the range of bfloat16 or float32, got float16, which "
            f"ends at τ = 11.8; cast to bfloat16 or use autocast, or exchange tangents instead"
        )


def in_float32(function: Function) -> Function:
    """Decorate a function of points: half precision goes in and out, float32 is computed.

    Autocast is off inside, since it would send the inner products to half precision again. Float16
    velocities are refused: they would overflow at τ = 11.8.
    """

    @wraps(function)
    def computed(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dtype = x.dtype
        half = dtype in HALF
        default_margin(dtype)
        given = (*args, *kwargs.values())
        # Also a half-precision weight of wide points: kernels read all tensors as one dtype.
        narrow = half or any([isinstance(x, Tensor) and x.dtype in HALF for x in given])
        if not narrow and not autocasts(x):
            return function(x, *args, **kwargs).to(dtype)
        for side in ("input", "output"):
            check_range(dtype, side, kwargs.get(side))

        def widen(value: Any) -> Any:
            wide = isinstance(value, Tensor) and (half or value.dtype in HALF)
            return value.float() if wide else value

        others = [widen(value) for value in args]
        named = {name: widen(value) for name, value in kwargs.items()}
        if half and "margin" in function.__annotations__ and named.get("margin") is None:
            named["margin"] = MARGINS[dtype]
        if dtype == torch.float16 and "reach" in function.__annotations__:
            named["reach"] = HALF_REACH if named.get("reach") is None else named["reach"]
        with without_autocast(x):
            return function(widen(x), *others, **named).to(dtype)

    return cast(Function, computed)


def moved_axis(x: Tensor, source: int, target: int) -> Tensor:
    """Return `x.movedim(source, target)`, without a place in the graph where nothing moves."""
    return x if source == target else x.movedim(source, target)


def squared_norm(x: Tensor, dim: int) -> Tensor:
    """Return ‖x‖² with size 1 on `dim`."""
    return x.square().sum(dim, keepdim=True)


def inner(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Return ⟨x, y⟩ with size 1 on `dim`."""
    return (x * y).sum(dim, keepdim=True)


def root(curvature: Curvature) -> Any:
    """Return √c."""
    return curvature.sqrt() if isinstance(curvature, Tensor) else math.sqrt(curvature)


def as_number(x: Curvature) -> float:
    """Return a curvature, or what is made of one, without its gradient."""
    return x.detach().item() if isinstance(x, Tensor) else x


def in_range(x: Tensor, dim: int, power: float = DIRECTION_RANGE) -> Tensor:
    """Shorten vectors whose square is no finite number, keeping their direction.

    Only for what depends on the direction alone so far out: the factor takes no gradient.
    """
    longest = torch.finfo(x.dtype).max ** power
    if x.shape[dim] == 0 or is_seen_within(x, longest):
        return x
    return x * range_factor(x, dim, longest)


def longest_in_range(x: Tensor) -> float:
    """Return the largest entry of a vector that is read as it is, in x's dtype."""
    return torch.finfo(x.dtype).max ** DIRECTION_RANGE


def in_range_with_squares(x: Tensor, dim: int) -> tuple[Tensor, Tensor, float | Tensor]:
    """Return vectors as `in_range` does, the squares of their norms, and what shortened them.

    Where squares can be looked at, vectors in range cost no pass of their own.
    """
    square = squared_norm(x, dim)
    longest = longest_in_range(x)
    if x.shape[dim] == 0 or is_seen_within(square, longest**2):
        return x, square, 1.0
    factor = range_factor(x, dim, longest)
    x = x * factor
    return x, squared_norm(x, dim), factor


def range_factor(x: Tensor, dim: int, longest: float) -> Tensor:
    """Return what shortens vectors to a largest entry of `longest`, 1 within; no gradient."""
    size = x.detach().abs().amax(dim, keepdim=True)
    return torch.where(size > longest, longest / size, 1.0)


def is_seen_within(x: Tensor, most: float) -> bool:
    """Whether a look at numbers shows all in [−most, most], so that a step that holds them may go.

    False where a look would be recorded by a tracer, or would wait for an accelerator.
    """
    if not x.numel() or x.device.type != "cpu" or not records_gradients(x):
        return False
    least, greatest = x.detach().aminmax()
    return -most <= float(least) and float(greatest) <= most


def shorten(x: Tensor, square: Tensor, longest: float) -> Tensor:
    """Return vectors x with the given squares of their norms, none longer than `longest`."""
    # A tensor, since a number over a tensor is a reciprocal: 1 within must be 1 to the last digit.
    limit = square.new_full((), longest**2)
    return x * (limit / square.clamp_min(limit)).sqrt()


def project(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Move points beyond the margin onto it, along their radius; others stay as they are.

    Returns x itself where no point need move.

    Args:
        x: Points (…, D, …) with D on axis `dim`; any vectors.
        curvature: c.
        dim: The axis of D.
        margin: Share of the radius kept free; None is that of the dtype, 0 none.
    """
    margin = default_margin(x.dtype) if margin is None else margin
    if margin == 0.0 or is_seen_within(squared_norm(x, dim) * curvature, (1 - margin) ** 2):
        return x
    x = in_range(x, dim)
    return shorten(x, squared_norm(x, dim) * curvature, 1 - margin)


def furthest_read(dtype: torch.dtype, margin: float | None = None) -> float:
    """Return the largest √c‖x‖ that a point is read at: half the margin is left, or an epsilon."""
    margin = default_margin(dtype) if margin is None else margin
    return 1 - (margin / 2 if margin > 0 else torch.finfo(dtype).eps)


def room(x: Tensor, curvature: Curvature, dim: int, margin: float | None = None) -> Tensor:
    """Return 1 − c‖x‖² > 0 of points as they are read, with size 1 on `dim`."""
    square = squared_norm(x, dim) * curvature
    return 1 - square.clamp_max(furthest_read(x.dtype, margin) ** 2)


def read(
    x: Tensor, curvature: Curvature, dim: int, margin: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return points as they are read, and their room."""
    furthest = furthest_read(x.dtype, margin)
    square = squared_norm(x, dim) * curvature
    if is_seen_within(square, furthest**2):
        return x, 1 - square
    x = in_range(x, dim)
    square = squared_norm(x, dim) * curvature
    return shorten(x, square, furthest), 1 - square.clamp_max(furthest**2)
