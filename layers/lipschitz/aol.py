"""AOL layers: linear layers and convolutions scaled until a diagonal bound says their norm is 1.

    weight = L W D,   D = diag(Σ_j |Wᵀ W|_ij)^{-1/2}

D Wᵀ W D ≤ I by diagonal dominance, tight where the columns are orthogonal. For convolutions the sum
also runs over the taps of the kernel's correlation with itself; with zero padding Wᵀ W is at most
that of the whole plane, so the weights fit any image size.

Source: Prach and Lampert 2022, "Almost-orthogonal layers for efficient general-purpose Lipschitz
networks", arXiv:2208.03160, theorems 1 and 2.
Differs from it: any L, and a floor of 1e-12 under the sum keeps a zero column finite (a larger sum
keeps the bound).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sizes import check_sizes
from .bounded_linear import BoundedLinear
from .layer import ConvWeight, LipschitzLayer, check_lipschitz
from .sll import check_kernel, diagonal_bound, kernel_gram

__all__ = ["AOLConv2d", "AOLLinear"]


class AOLLinear(BoundedLinear):
    """A linear layer of norm at most L.

    Args:
        in_features: Inputs, at least 1.
        out_features: Outputs, at least 1.
        bias: Whether b is learned.
        lipschitz: L > 0.

    Shape:
        (…, in_features) -> (…, out_features).

    Raises:
        ValueError: a size below 1, or L ≤ 0.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, lipschitz: float = 1.0
    ) -> None:
        """Make W and b."""
        super().__init__(in_features, out_features, bias=bias, lipschitz=lipschitz)
        self.reset_parameters()  # orthogonal, for which the bound is tight

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map W to L W D."""
        w = parameters["weight"]
        bound = diagonal_bound(w.mT @ w, w.new_zeros(w.shape[1]))
        return (self.lipschitz * w * bound.rsqrt(),)


class AOLConv2d(LipschitzLayer):
    """A zero-padded convolution of stride 1 and norm at most L, for images of any size.

    Args:
        in_channels: Input channels, at least 1.
        out_channels: Output channels, at least 1.
        kernel_size: Odd side of the kernel.
        bias: Whether b is learned.
        lipschitz: L > 0.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W).

    Raises:
        ValueError: a size below 1, an even kernel, or L ≤ 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        bias: bool = True,
        lipschitz: float = 1.0,
    ) -> None:
        """Make the kernel and b."""
        super().__init__()
        check_sizes(1, in_channels=in_channels, out_channels=out_channels)
        check_kernel(kernel_size)
        self.lipschitz = check_lipschitz(lipschitz)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding = kernel_size, kernel_size // 2
        side = (kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *side))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw an orthogonal matrix (out, in) in the middle of the kernel, and zero the rest."""
        nn.init.zeros_(self.weight)
        middle = torch.empty(self.out_channels, self.in_channels)
        nn.init.orthogonal_(middle)
        with torch.no_grad():
            self.weight[:, :, self.padding, self.padding] = middle
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map the kernel to L W D."""
        w = parameters["weight"]
        bound = diagonal_bound(kernel_gram(w.transpose(0, 1)), w.new_zeros(w.shape[1]))
        return (self.lipschitz * w * bound.rsqrt()[:, None, None],)

    @torch.no_grad()
    def effective(self) -> ConvWeight:
        """Return the kernel that the forward uses right now."""
        return ConvWeight(self.weights()[0], self.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return F.conv2d(x, self.weights()[0], self.bias, padding=self.padding)

    @torch.no_grad()
    def export(self) -> nn.Conv2d:
        """Return the plain convolution."""
        weight = self.weights()[0]
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            padding=self.padding,
            bias=self.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        conv.weight.copy_(weight)
        if self.bias is not None and conv.bias is not None:
            conv.bias.copy_(self.bias)
        return conv

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, "
            f"kernel_size={self.kernel_size}, lipschitz={self.lipschitz:g}"
        )
