"""The linear layer of the hyperboloid in space parts: one more column, for the time.

    y = W s + w₀ e(s) + b,    e(s) = x₀ − r = √c‖s‖²/(1 + √(1 + c‖s‖²))

Any vector y is a point, so that the time is computed anew where it is needed. Every Lorentz
transformation, rotation or boost, is such a layer. In flat space e is 0 and the layer is the
Euclidean one; a fresh layer has w₀ = 0 and is the Euclidean one in any space.

Lipschitz: the gradient of e is s/x₀, shorter than 1, so that ‖y(s) − y(s')‖ ≤ (‖W‖ + ‖w₀‖)‖s − s'‖.

Source: Chen et al. 2022, "Fully hyperbolic neural networks", arXiv:2105.14686, eq. 3, without its
gate; Yang et al. 2024, "Hypformer", arXiv:2407.01290 (HTC).
Differs from them: theirs multiply w₀ by x₀, which is the bias b − w₀ r here; that diverges in flat
space.
"""

# Shape letters: N inputs, M outputs.

import math

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ...fast_path import faster
from .._fast.fused_lorentz_linear import fused_map
from ..bases.linear_base import CurvedLinear
from ..curvature import BallCurvature
from ..maths.ball import Curvature, check_curvature
from ..maths.shape_checks import check_one_number, check_parameters, check_shape
from ..maths.space_parts import lorentz_map

__all__ = ["LorentzLinear", "lorentz_linear"]


def lorentz_linear(
    s: Tensor,
    weight: Tensor,
    time_weight: Tensor,
    bias: Tensor | None,
    curvature: Curvature,
) -> Tensor:
    """Map space parts (…, N) to space parts (…, M).

    Under autocast the matrix product runs in half precision and e in float32.

    Args:
        s: Space parts.
        weight: W (M, N).
        time_weight: w₀ (M,).
        bias: b (M,); None is 0.
        curvature: c.

    Raises:
        ValueError: a curvature that is not one positive number, or another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, bias, "M", "N")
    check_shape("time_weight", time_weight, weight.shape[0])
    check_shape("s", s, "…", weight.shape[1])
    return faster(fused_map, lorentz_map, s, weight, time_weight, bias, curvature)


class LorentzLinear(CurvedLinear):
    """A linear layer of the hyperboloid, space parts in and out.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether there is a b.

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
        """Make W, w₀ and b."""
        super().__init__(in_features, out_features, curvature)
        self.time_weight = nn.Parameter(torch.empty(out_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        exclude_from_decay(self, "time_weight")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W and b as `nn.Linear` does, from the same numbers, and zero w₀."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = self.in_features**-0.5
            nn.init.uniform_(self.bias, -bound, bound)
        nn.init.zeros_(self.time_weight)

    def forward(self, s: Tensor) -> Tensor:
        """Map space parts."""
        return lorentz_linear(s, self.weight, self.time_weight, self.bias, self.curvature())

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{super().extra_repr()}, bias={self.bias is not None}"
