"""Linear layers of bounded norm: the contraction of any matrix, times L.

    y = L Q x + b,   Q = N⁻¹ K,   N Nᵀ = I + K Kᵀ   (of the smaller side)

Every matrix of norm below L comes from one K; an orthogonal K of gain g has singular values
g/√(1 + g²), 0.95 for the default 3.

Source: the factor of arXiv:2512.05915, in `contraction`.
Differs from it: used by itself, on the smaller side, with an orthogonal start.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bounded_linear import BoundedLinear
from .layer import ConvWeight
from .ldlt.contraction import bounded

__all__ = ["ContractionConv1x1", "ContractionLinear"]


class ContractionLinear(BoundedLinear):
    """A linear layer of norm below L.

    Args:
        in_features: Inputs, at least 1.
        out_features: Outputs, at least 1.
        bias: Whether b is learned.
        lipschitz: L > 0.
        gain: Singular values of a fresh K.

    Shape:
        (…, in_features) -> (…, out_features).

    Raises:
        ValueError: a size below 1, or L ≤ 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        lipschitz: float = 1.0,
        gain: float = 3.0,
    ) -> None:
        """Make K and b."""
        super().__init__(in_features, out_features, bias=bias, lipschitz=lipschitz)
        self.gain = gain
        self.reset_parameters()

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map K to L Q."""
        return (self.lipschitz * bounded(parameters["weight"]),)


class ContractionConv1x1(ContractionLinear):
    """The same linear layer at every pixel, (B, in_features, H, W) -> (B, out_features, H, W)."""

    @torch.no_grad()
    def effective(self) -> ConvWeight:  # type: ignore[override]
        """Return the kernel that the forward uses right now."""
        return ConvWeight(self.weights()[0][:, :, None, None], 0)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and shift at every pixel."""
        return F.conv2d(x, self.weights()[0][:, :, None, None], self.bias)

    @torch.no_grad()
    def export(self) -> nn.Conv2d:  # type: ignore[override]
        """Return the plain convolution."""
        plain = super().export()
        conv = nn.Conv2d(self.in_features, self.out_features, 1, bias=self.bias is not None)
        conv.weight = nn.Parameter(plain.weight.detach()[:, :, None, None])
        conv.bias = plain.bias
        return conv
