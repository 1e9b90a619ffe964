"""The gated linear layer of HyboNet in space parts: a direction, and a time of its own.

    v = W s + w₀ x₀ + b,    X = e^λ σ(⟨g, s⟩ + g₀ x₀ + β) + margin,    y = √((X² − 1)/c) v/‖v‖

For comparison with published networks; `lorentz_linear` is the layer to build with. No output lies
nearer to the origin than arcosh(margin)/√c, 0.444 radii, or further than X = e^λ + margin; nothing
of it is left in flat space, where x₀ grows without bound.

‖v‖² is held at 1e-8, as in the public code.

Source: Chen et al. 2022, "Fully hyperbolic neural networks", arXiv:2105.14686, eq. 4, with the bias
before the gate as in the public code.
Differs from it: nothing at c = 1, the only curvature that the public code has.
"""

# Shape letters: N inputs, M outputs.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sizes import check_sizes
from ..curvature import BallCurvature, curvature_of
from ..maths.ball import Curvature, check_curvature, in_float32, root, squared_norm
from ..maths.shape_checks import check_one_number, check_parameters, check_shape
from ..maths.space_parts import scaled_time

__all__ = ["GatedLorentzLinear", "gated_linear"]

# ‖v‖² of the public code is not read below this.
LEAST = 1e-8


@in_float32
def gated_linear(
    s: Tensor,
    weight: Tensor,
    bias: Tensor,
    log_scale: Tensor,
    curvature: Curvature,
    *,
    margin: float = 1.1,
) -> Tensor:
    """Map space parts (…, N) to space parts (…, M).

    Args:
        s: Space parts.
        weight: (1 + M, 1 + N): the gate in row 0, the time's weights in column 0.
        bias: (1 + M,), the gate's first.
        log_scale: λ, one number.
        curvature: c.
        margin: The least scaled time, above 1.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's, or
            another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, bias, "1 + M", "1 + N")
    check_shape("s", s, "…", weight.shape[1] - 1)
    time = scaled_time(s, curvature) / root(curvature)
    mapped = F.linear(s, weight[:, 1:], bias) + time * weight[:, 0]
    scaled = mapped[..., :1].sigmoid() * log_scale.exp() + margin
    direction = mapped[..., 1:]
    square = (scaled.square() - 1) / curvature
    return direction * (square / squared_norm(direction, -1).clamp_min(LEAST)).sqrt()


class GatedLorentzLinear(nn.Module):
    """HyboNet's linear layer, space parts in and out.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        curvature: c, or a shared `BallCurvature`.
        scale: e^λ as it starts, above 0.
        margin: The least scaled time, above 1.

    Shape:
        (…, N) -> (…, M).

    Raises:
        ValueError: a size below 1, a curvature or scale that is not positive, or a margin of 1 or
            less.
    """

    unit_axes = {"weight": ((1, "out"), (1, "in")), "bias": ((1, "out"),)}

    matrix_parameters = ("weight",)
    input = output = "space"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        scale: float = 10.0,
        margin: float = 1.1,
    ) -> None:
        """Make the weights."""
        super().__init__()
        check_sizes(1, in_features=in_features, out_features=out_features)
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        if not margin > 1:
            raise ValueError(f"margin must be above 1, the time of the origin, got {margin}")
        self.in_features, self.out_features = in_features, out_features
        self.curvature = curvature_of(curvature)
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(1 + out_features, 1 + in_features))
        self.bias = nn.Parameter(torch.empty(1 + out_features))
        self.log_scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights uniformly, zero the time's weights and biases, as the public code does."""
        bound = (1 + self.in_features) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            self.weight[:, 0] = 0.0
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.log_scale, math.log(self.scale))

    def forward(self, s: Tensor) -> Tensor:
        """Map space parts."""
        return gated_linear(
            *(s, self.weight, self.bias, self.log_scale, self.curvature()), margin=self.margin
        )

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
