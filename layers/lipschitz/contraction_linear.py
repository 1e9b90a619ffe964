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

from .layer import ConvWeight, LinearWeight, LipschitzLayer, check_lipschitz
from .ldlt.contraction import bounded
from .plain_modules import linear

__all__ = ["ContractionConv1x1", "ContractionLinear", "check_features"]


class ContractionLinear(LipschitzLayer):
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
        super().__init__()
        check_features(in_features=in_features, out_features=out_features)
        self.lipschitz = check_lipschitz(lipschitz)
        self.in_features, self.out_features, self.gain = in_features, out_features, gain
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw an orthogonal K, and zero b."""
        nn.init.orthogonal_(self.weight, gain=self.gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map K to L Q."""
        return (self.lipschitz * bounded(parameters["weight"]),)

    @torch.no_grad()
    def effective(self) -> LinearWeight:
        """Return the matrix that the forward uses right now."""
        return LinearWeight(*self.weights())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and shift."""
        return F.linear(x, self.weights()[0], self.bias)

    @torch.no_grad()
    def export(self) -> nn.Linear:
        """Return the plain linear layer."""
        return linear(self.weights()[0], self.bias)

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"lipschitz={self.lipschitz:g}"
        )


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
        plain = linear(self.weights()[0], self.bias)
        conv = nn.Conv2d(self.in_features, self.out_features, 1, bias=self.bias is not None)
        conv.weight = nn.Parameter(plain.weight.detach()[:, :, None, None])
        conv.bias = plain.bias
        return conv


def check_features(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: naming the size.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
