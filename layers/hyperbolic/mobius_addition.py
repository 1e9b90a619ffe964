"""Möbius addition of tangents: the residual connection of the ball, without a point of the ball.

For the points exp₀(a) and exp₀(b) with velocities ω_a, ω_b and times A₀, B₀ (`coordinates`), the
left translation a ⊕ b is the boost

    ω = ω_b + ((B₀ + O₀)/(1 + A₀)) ω_a,    O₀ = A₀B₀ + ⟨ω_a, ω_b⟩

of time O₀, and log₀ of it is the tangent of ω: three inner products and one pass over the channels.
a ⊕ 0 = a, 0 ⊕ b = b, (−a) ⊕ (a ⊕ b) = b, ‖a ⊕ b‖ = ‖b ⊕ a‖; a ⊕ b ≠ b ⊕ a.

Source: Ungar 2008, ch. 3; as a skip connection van Spengler et al. 2023, "Poincaré ResNet",
arXiv:2303.14027, §3.5.
Differs from them: in velocities, so that nothing divides by 1 − c‖x‖².
"""

import torch
from torch import Tensor

from ._fast.fused_maps import fused_sum
from .maths.ball import Curvature, check_curvature, in_float32, inner, moved_axis
from .maths.coordinates import held_velocity, velocity_to_tangent
from .maths.radial import cosh_of_square
from .maths.shape_checks import check_axis

__all__ = ["mobius_add_tangents"]

# Two angles add up to at most 40, and the square of sinh(40) is still a float32.
LARGEST = 20.0


def mobius_add_tangents(
    left: Tensor, right: Tensor, curvature: Curvature, *, dim: int = -1
) -> Tensor:
    """Return log₀(exp₀(left) ⊕ exp₀(right)), for tangents in their wider dtype.

    Points further than 20/√c from the origin are taken there, along their radius; float32 projected
    to a ball, as elsewhere, ends at 6.2/√c.

    Args:
        left: The tangent of the point that translates.
        right: The tangent of the point that is translated; axes other than `dim` may have size 1.
        curvature: c.
        dim: The axis of D.

    Raises:
        ValueError: a curvature that is not positive, a dtype other than a float's, or tangents of
            different widths or numbers of axes.
    """
    check_axis("left", left, dim)
    check_axis("right", right, dim, left.shape[dim])
    if left.shape != right.shape and not _broadcast(left, right):
        raise ValueError(
            f"right has shape {tuple(right.shape)}, expected that of left, {tuple(left.shape)}"
        )
    dtype = torch.promote_types(left.dtype, right.dtype)
    return _add(left.to(dtype), right.to(dtype), curvature, dim)


def _broadcast(left: Tensor, right: Tensor) -> bool:
    """Whether sizes of the same number of axes are equal or 1."""
    return left.dim() == right.dim() and all(
        one == other or 1 in (one, other)
        for one, other in zip(left.shape, right.shape, strict=True)
    )


@in_float32
def _add(left: Tensor, right: Tensor, curvature: Curvature, dim: int) -> Tensor:
    check_curvature(curvature)
    if left.dim() == 1:
        return _add(left[None], right[None], curvature, 1)[0]
    left, right = moved_axis(left, dim, 1), moved_axis(right, dim, 1)
    found = fused_sum(_definition, left, right, curvature, LARGEST)
    found = _definition(left, right, curvature) if found is None else found
    return moved_axis(found, 1, dim)


def _definition(left: Tensor, right: Tensor, curvature: Curvature) -> Tensor:
    """Add tangents (B, D, …)."""
    (one, one_square), (two, two_square) = (
        held_velocity(t, curvature, dim=1, largest=LARGEST) for t in (left, right)
    )
    one_time, two_time = cosh_of_square(one_square), cosh_of_square(two_square)
    time = one_time * two_time + inner(one, two, 1)
    velocity = two + (two_time + time) / (1 + one_time) * one
    return velocity_to_tangent(velocity, curvature, dim=1)
