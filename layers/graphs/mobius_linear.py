"""The linear layer of tangents with a bias that is a translation of the ball.

    y = W t ⊕ b

A matrix at the origin maps tangents; the bias is a point, given by its tangent, to which the result
is translated. In flat space it is W t + b; without a bias it is W t in any curvature.

Source: Ganea et al. 2018, "Hyperbolic neural networks", arXiv:1805.09112, §3.2; in graph networks
Chami et al. 2019, arXiv:1910.12933, §4.1.
Differs from them: tangents in and out, so that no point of the ball is made or projected between
the matrix and the bias.
"""

# Shape letters: N inputs, M outputs.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fast_path import faster
from ..hyperbolic import BallCurvature, curvature_of, mobius_add_tangents
from ..sizes import check_sizes
from ._fast.fused_translation import fused_translation

__all__ = ["MobiusLinear", "mobius_linear"]


def mobius_linear(
    t: Tensor, weight: Tensor, bias: Tensor | None, curvature: float | Tensor
) -> Tensor:
    """Map tangents (…, N) to tangents (…, M).

    Args:
        t: Tangents at the origin.
        weight: W (M, N).
        bias: b (M,), a tangent; None is 0.
        curvature: c.

    Raises:
        ValueError: a curvature that is not positive.
    """
    out = F.linear(t, weight)
    if bias is None:
        return out
    flat, bias = out.reshape(-1, out.shape[-1]), bias.to(out.dtype)
    return faster(fused_translation, translated, flat, bias, curvature).view(out.shape)


def translated(t: Tensor, by: Tensor, curvature: float | Tensor) -> Tensor:
    """Return t ⊕ b for tangents (N, M) and one b (M,)."""
    return mobius_add_tangents(t, by[None], curvature)


class MobiusLinear(nn.Module):
    """A matrix and a translation of the ball, tangents in and out.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        curvature: c, or a shared `BallCurvature`.

    Shape:
        (…, N) -> (…, M).

    Raises:
        ValueError: a size below 1, or a curvature that is not positive.
    """

    matrix_parameters = ("weight",)
    input = output = "tangent"

    def __init__(
        self, in_features: int, out_features: int, *, curvature: float | BallCurvature = 1.0
    ) -> None:
        """Make W and b."""
        super().__init__()
        check_sizes(1, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.curvature = curvature_of(curvature)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both as `nn.Linear` does, from the same numbers."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = self.in_features**-0.5
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, t: Tensor) -> Tensor:
        """Map tangents."""
        return mobius_linear(t, self.weight, self.bias, self.curvature())

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
