"""Changes of resolution and channels that keep distances, or never stretch them.

They make a strided or channel-changing block out of one that keeps its shape, at no cost to its
bound: SpaceToDepth moves pixels into channels, PadChannels adds zero channels, ScaledAvgPool2d is k
times the mean over k × k pixels, GlobalScaledPool √(H W) times the mean of the image.

Sources: folklore; pixel unshuffling as in Trockman and Kolter 2021, arXiv:2104.07167.
Differs from it: an odd side is padded with zeros before it is halved.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..sizes import check_sizes

__all__ = ["GlobalScaledPool", "PadChannels", "ScaledAvgPool2d", "SpaceToDepth"]


class SpaceToDepth(nn.Module):
    """Move each s × s square of pixels into channels, (B, C, H, W) -> (B, s² C, ⌈H/s⌉, ⌈W/s⌉).

    Args:
        factor: s, at least 1.

    Raises:
        ValueError: factor < 1.
    """

    lipschitz = 1.0

    def __init__(self, factor: int = 2) -> None:
        """Keep the factor."""
        super().__init__()
        check_sizes(1, factor=factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Move, after zeros up to a multiple of s."""
        s = self.factor
        x = F.pad(x, (0, -x.shape[-1] % s, 0, -x.shape[-2] % s))
        return squares_to_channels(x, s)

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"factor={self.factor}"


# Not `F.pixel_unshuffle`, which gives an empty batch the wrong shape. A leaf where torch.fx traces,
# because einops takes none of its stand-ins for tensors.
@torch.fx.wrap
def squares_to_channels(x: Tensor, s: int) -> Tensor:
    """Move each s × s square of pixels into channels."""
    return rearrange(x, "... c (h s1) (w s2) -> ... (c s1 s2) h w", s1=s, s2=s)


class PadChannels(nn.Module):
    """Add zero channels, (B, C, H, W) -> (B, C + extra, H, W).

    Args:
        extra: How many, at least 0.

    Raises:
        ValueError: extra < 0.
    """

    lipschitz = 1.0

    def __init__(self, extra: int) -> None:
        """Keep the number."""
        super().__init__()
        if extra < 0:
            raise ValueError(f"extra must be at least 0, got {extra}")
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """Add them at the end."""
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        """Show the number."""
        return f"extra={self.extra}"


class ScaledAvgPool2d(nn.Module):
    """k times the mean over squares of k × k pixels, a map of norm 1; the last pixels may drop out.

    Args:
        kernel_size: k, at least 1.

    Raises:
        ValueError: kernel_size < 1.
    """

    lipschitz = 1.0

    def __init__(self, kernel_size: int = 2) -> None:
        """Keep the size."""
        super().__init__()
        check_sizes(1, kernel_size=kernel_size)
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        return self.kernel_size * F.avg_pool2d(x, self.kernel_size)

    def extra_repr(self) -> str:
        """Show the size."""
        return f"kernel_size={self.kernel_size}"


class GlobalScaledPool(nn.Module):
    """√(H W) times the mean of the image, (B, C, H, W) -> (B, C), a map of norm 1."""

    lipschitz = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        return x.sum((2, 3)) / math.sqrt(x.shape[2] * x.shape[3])
