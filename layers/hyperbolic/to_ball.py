"""Ways in and out of the ball.

Layers take and return tangents at the origin, so Euclidean features enter as they are. What may
need doing is to keep them near the origin, where float32 and gradients are good, or to get points.

    clip(t) = min(1, r/‖t‖) t

Source: clipping is Guo et al. 2022, "Clipped Hyperbolic Classifiers Are Super-Hyperbolic
Classifiers", arXiv:2107.11472, eq. 4.
Differs from it: nothing.
"""

import torch
from torch import Tensor, nn

from .curvature import BallCurvature, curvature_of
from .maths.ball import in_float32, in_range_with_squares
from .poincare import expmap0, logmap0

__all__ = ["ClipTangent", "FromBall", "ToBall", "clip_tangent"]


@in_float32
def clip_tangent(t: Tensor, radius: float, *, dim: int = -1) -> Tensor:
    """Shorten vectors that are longer than the radius to it.

    Args:
        t: Vectors.
        radius: r, above 0.
        dim: The axis of D.
    """
    t, square, factor = in_range_with_squares(t, dim)
    outside = square > (radius * factor) ** 2
    length = torch.where(outside, square, 1.0).sqrt()
    return torch.where(outside, radius / length, 1 / factor) * t


class ClipTangent(nn.Module):
    """Keep features within a radius of the origin: the step from a Euclidean net to a ball's head.

    Args:
        radius: r, above 0; the clipped point lies at most 2r from the origin.
        dim: The axis of D.

    Raises:
        ValueError: a radius that is not positive.
    """

    unit_axes = {}

    def __init__(self, radius: float, *, dim: int = -1) -> None:
        """Keep the radius."""
        super().__init__()
        if not radius > 0:
            raise ValueError(f"radius must be above 0, got {radius}")
        self.radius, self.dim = radius, dim

    def forward(self, t: Tensor) -> Tensor:
        """Clip vectors."""
        return clip_tangent(t, self.radius, dim=self.dim)

    def extra_repr(self) -> str:
        """Show the radius."""
        return f"radius={self.radius}"


class ToBall(nn.Module):
    """Tangents at the origin to points: exp₀.

    Args:
        curvature: c, or a shared `BallCurvature`.
        dim: The axis of D.
    """

    unit_axes = {}

    # What `exchange` compares with the layers beside it.
    input, output = "tangent", "point"

    def __init__(self, *, curvature: float | BallCurvature = 1.0, dim: int = -1) -> None:
        """Keep the ball."""
        super().__init__()
        self.curvature, self.dim = curvature_of(curvature), dim

    def forward(self, x: Tensor) -> Tensor:
        """Return points."""
        return expmap0(x, self.curvature(), dim=self.dim)


class FromBall(ToBall):
    """Points to tangents at the origin: log₀, the inverse of `ToBall`."""

    input, output = "point", "tangent"

    def forward(self, x: Tensor) -> Tensor:
        """Return tangents."""
        return logmap0(x, self.curvature(), dim=self.dim)
