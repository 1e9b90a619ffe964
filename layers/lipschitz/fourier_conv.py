"""A circular convolution with a kernel as large as the image, by real matrix products.

Two real products transform an image (H, W) to its H (W // 2 + 1) frequencies, one multiplies the
channels at each of them, and two transform back. Nothing is complex and no transform is called, so
that any library of inference computes it; it takes H W / (2 (H + W)) times fewer products than the
convolution where there are many channels.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["FourierConv2d", "through_fourier"]


class FourierConv2d(nn.Module):
    """The map of a circular `nn.Conv2d` with `padding="same"` and a kernel of the image's size.

    Args:
        conv: That convolution; its kernel's sides are the image's.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W).
    """

    along_rows: Tensor
    along_columns: Tensor
    weight: Tensor
    back_columns: Tensor
    back_rows: Tensor
    bias: Tensor | None

    @torch.no_grad()
    def __init__(self, conv: nn.Conv2d) -> None:
        """Transform the kernel, in float64."""
        super().__init__()
        height, width = self.size = (conv.kernel_size[0], conv.kernel_size[1])
        half = width // 2 + 1
        kernel = conv.weight.detach().double()
        kernel = kernel.roll([-((n - 1) // 2) for n in self.size], (-2, -1))
        # conv2d correlates, so its transfer matrix is the conjugate of the kernel's transform.
        transfer = torch.fft.rfft2(kernel).conj().permute(2, 3, 0, 1).flatten(0, 1)
        re, im = transfer.real, transfer.imag
        c, s = waves(width, width, half)
        rows = torch.cat([c, -s], 1)
        share = torch.full((half,), 2.0, dtype=torch.float64)  # for the conjugate half
        share[0] = 1.0
        if width % 2 == 0:
            share[-1] = 1.0
        back = torch.cat([c * share, -s * share], 1).mT / width
        c, s = waves(height, height, height)
        parts = {
            "along_rows": rows,
            "along_columns": torch.cat([torch.cat([c, s], 1), torch.cat([-s, c], 1)]),
            "weight": torch.cat([torch.cat([re, -im], 2), torch.cat([im, re], 2)], 1),
            "back_columns": torch.cat([torch.cat([c, -s], 1), torch.cat([s, c], 1)]) / height,
            "back_rows": back,
        }
        for name, part in parts.items():
            self.register_buffer(name, part.to(conv.weight).contiguous())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Transform, multiply, and transform back."""
        height, width = self.size
        half = width // 2 + 1
        x = (x @ self.along_rows).unflatten(-1, (2, half)).transpose(2, 3).flatten(2, 3)
        x = (self.along_columns @ x).unflatten(2, (2, height))  # (B, in, 2, H, F)
        x = self.weight @ x.permute(3, 4, 2, 1, 0).flatten(0, 1).flatten(1, 2)
        x = x.unflatten(0, (height, half)).unflatten(2, (2, -1)).permute(4, 3, 2, 0, 1)
        x = (self.back_columns @ x.flatten(2, 3)).unflatten(2, (2, height))
        y = x.transpose(2, 3).flatten(3, 4) @ self.back_rows
        return y if self.bias is None else y + self.bias[:, None, None]


def waves(length: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2π j k / length, (rows, columns), in float64."""
    turns = torch.arange(rows)[:, None] * torch.arange(columns) % length
    angles = turns.double() * (2 * math.pi / length)
    return angles.cos(), angles.sin()


def through_fourier(module: nn.Module) -> nn.Module:
    """Put `FourierConv2d` in the place of circular convolutions where it takes fewer products.

    Args:
        module: What a layer of the frequency domain exports, changed in place: the kernels of its
            circular convolutions are as large as its image.
    """
    for name, child in list(module._modules.items()):
        if child is not None:
            setattr(module, name, through_fourier(child))
    if isinstance(module, nn.Conv2d) and module.padding_mode == "circular" and _saves(module):
        return FourierConv2d(module)
    return module


def _saves(conv: nn.Conv2d) -> bool:
    height, width = conv.kernel_size
    half = width // 2 + 1
    pixels, channels = height * width, conv.in_channels * conv.out_channels
    transforms = 2 * half * height * (width + 2 * height) * (conv.in_channels + conv.out_channels)
    return transforms + 4 * height * half * channels < pixels * pixels * channels
