"""The linear layer whose outputs are distances to hyperplanes, in space parts.

    y_k = ‖u_k‖ (cosh(A_k)⟨û_k, s⟩ − sinh(A_k) x₀) = ‖u_k‖/√c sinh(√c d(s, H_k))
    A_k = √c a_k/‖u_k‖

with signed distances to the hyperplane H_k normal to u_k at a_k/‖u_k‖ from the origin. It is the
layer of `lorentz_linear` with W, w₀ and b tied to the rows u and the offsets a:

    W = cosh(A) u,    b = −‖u‖ sinh(A)/√c,    w₀ = √c b

at the same cost. In flat space it is ⟨u_k, s⟩ − a_k. Outputs that are distances let points move
outwards by additive steps of the parameters at an even pace.

A is held in ±30, beyond which products of outputs are no float32.

Source: van der Klis et al. 2026, arXiv:2601.21529.
Differs from it: in space parts; prepared once for all points of a batch.
"""

# Shape letters: N inputs, M outputs.

import math

import torch
from torch import Tensor, nn

from ..bases.linear_base import HyperplaneRows
from ..curvature import BallCurvature
from ..maths.ball import Curvature, check_curvature, root
from ..maths.coordinates import LIMIT
from ..maths.shape_checks import check_one_number, check_parameters
from .lorentz_linear import lorentz_linear

__all__ = ["HyperplaneLinear", "hyperplane_linear"]


def hyperplane_linear(
    s: Tensor, weight: Tensor, offset: Tensor | None, curvature: Curvature
) -> Tensor:
    """Map space parts (…, N) to space parts (…, M).

    Args:
        s: Space parts.
        weight: u (M, N), normals of the hyperplanes.
        offset: a (M,); None is 0.
        curvature: c.

    Raises:
        ValueError: a curvature that is not one positive number, or another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, offset, "M", "N")
    if offset is None:
        return lorentz_linear(s, weight, weight.new_zeros(len(weight)), None, curvature)
    scale = root(curvature)
    size = weight.square().sum(1).clamp_min(torch.finfo(weight.dtype).tiny).sqrt()
    angle = (scale * offset / size).clamp(-LIMIT, LIMIT)
    bias = -size * angle.sinh() / scale
    return lorentz_linear(s, angle.cosh()[:, None] * weight, scale * bias, bias, curvature)


class HyperplaneLinear(HyperplaneRows):
    """A linear layer of distances to hyperplanes, space parts in and out.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether hyperplanes may leave the origin (a is learned).

    Shape:
        (…, N) -> (…, M).

    Raises:
        ValueError: a size below 1, or a curvature that is not positive.
    """

    input = output = "space"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        bias: bool = True,
    ) -> None:
        """Make u and a."""
        super().__init__(in_features, out_features, curvature, bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw u as `nn.Linear` draws its weight, and zero a."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.reset_offset()

    def forward(self, s: Tensor) -> Tensor:
        """Map space parts."""
        return hyperplane_linear(s, self.weight, self.offset, self.curvature())
