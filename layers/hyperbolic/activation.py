"""Activations of the ball: any function of tangents, applied at the origin.

    f^⊗(x) = exp₀(f(log₀(x)))

Layers here pass tangents on, so between two of them an activation is the function itself: no map is
needed, and `nn.ReLU` after a Poincaré layer is the Poincaré ReLU. These are for points of the ball.

Source: Ganea et al. 2018, arXiv:1805.09112, §3.1 ("Möbius version" of a map); the Poincaré ReLU is
in van Spengler et al. 2023, arXiv:2303.14027, §3.5.
Differs from them: nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .curvature import BallCurvature, curvature_of
from .maths.ball import Curvature
from .poincare import expmap0, logmap0

__all__ = ["PointActivation", "poincare_relu", "tangent_activation"]


def tangent_activation(
    x: Tensor,
    activation: Callable[[Tensor], Tensor],
    curvature: Curvature,
    *,
    dim: int = -1,
    margin: float | None = None,
) -> Tensor:
    """Apply a function of tangents to points of the ball.

    Args:
        x: Points.
        activation: Maps tangents to tangents.
        curvature: c.
        dim: The axis of D.
        margin: Share of the radius kept free, as in `poincare`.

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    t = activation(logmap0(x, curvature, dim=dim, margin=margin))
    return expmap0(t, curvature, dim=dim, margin=margin)


def poincare_relu(
    x: Tensor, curvature: Curvature, *, dim: int = -1, margin: float | None = None
) -> Tensor:
    """Apply ReLU to the tangents of points of the ball."""
    return tangent_activation(x, torch.relu, curvature, dim=dim, margin=margin)


class PointActivation(nn.Module):
    """An activation for points of the ball; between tangents use the activation itself.

    Args:
        activation: Maps tangents to tangents, such as `nn.GELU()`.
        curvature: c, or a shared `BallCurvature`.
        dim: The axis of D.
    """

    unit_axes = {}

    # What `exchange` compares with the layers beside it.
    input, output = "point", "point"

    def __init__(
        self, activation: nn.Module, *, curvature: float | BallCurvature = 1.0, dim: int = -1
    ) -> None:
        """Keep the parts."""
        super().__init__()
        self.activation = activation
        self.curvature = curvature_of(curvature)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Activate points."""
        return tangent_activation(x, self.activation, self.curvature(), dim=self.dim)
