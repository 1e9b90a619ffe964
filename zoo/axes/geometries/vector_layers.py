"""What flat space and space parts share: norms, heads and pairs of layers of plain vectors."""

from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["VectorLayers"]


class VectorLayers(Protocol):
    """The layers of a space whose features are normed and split as vectors are."""

    weight_scale = 1.0

    def linear(self, in_width: int, out_width: int, *, bias: bool = True) -> Any:
        """Make a linear layer."""
        ...

    def conv(
        self, in_width: int, out_width: int, size: int, stride: int = 1, *, bias: bool = True
    ) -> Any:
        """Make a convolution."""
        ...

    def qkv(self, width: int, *, bias: bool = True) -> Any:
        """Make a linear layer; parts of what it gives are features."""
        return self.linear(width, 3 * width, bias=bias)

    def merge(self, heads: Tensor) -> Tensor:
        """Leave the heads side by side: features of the concatenated point."""
        return heads

    def layer_norm(self, width: int, eps: float = 1e-5) -> nn.LayerNorm:
        """Make layer normalisation."""
        return nn.LayerNorm(width, eps=eps)

    def rms_norm(self, width: int, eps: float = 1e-5) -> nn.RMSNorm:
        """Make RMS normalisation."""
        return nn.RMSNorm(width, eps=eps)

    def batch_norm(self, width: int) -> nn.BatchNorm1d:
        """Make batch normalisation."""
        return nn.BatchNorm1d(width)

    def image_norm(self, width: int) -> nn.BatchNorm2d:
        """Make batch normalisation."""
        return nn.BatchNorm2d(width)

    def normed_conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Module:
        """Make a convolution and batch normalisation."""
        return nn.Sequential(
            self.conv(in_width, out_width, size, stride), self.image_norm(out_width)
        )

    def node_linear(self, in_width: int, out_width: int) -> Any:
        """Make a linear layer."""
        return self.linear(in_width, out_width)
