"""LDLᵀ blocks of circular convolutions, exact: one small block at every frequency.

A circular convolution is a matrix (out, in) at each frequency of the image's Fourier transform, so
the block's matrix inequality falls apart into one for each frequency, with the same Λ (per channel)
at all of them. `chain`'s maps run on these complex matrices as they are: the free parameters are
small real kernels, K_k(ω) their transforms. The transforms of the weights are those of real kernels
as large as the image, like those of a Cayley convolution.

With `padding` p, p zeros surround the image before the block and the border is cropped after: the
first keeps norms, the second lowers them, and a pixel no longer meets the opposite border.

Source: as `chain`; the Fourier form of a layer is Trockman and Kolter 2021, "Orthogonalizing
convolutional layers with the Cayley transform", arXiv:2104.07167.
Differs from it: residual blocks of any number of inner layers instead of one orthogonal layer.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layer import LipschitzLayer, check_lipschitz
from ..lipschitz_activation import is_homogeneous, make_activation
from ..plain_modules import PlainBlock, Scale
from ..proof.inequality import LMIBlock
from .chain import Free, residual_block
from .contraction import bounded
from .forms import check_wiring
from .skip import skip_block

__all__ = [
    "Bordered",
    "LDLTCircularConv2d",
    "apply_frequencies",
    "circular_conv",
    "crop",
    "kernel_frequencies",
    "pad",
]


def kernel_frequencies(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the transfer matrices of a small kernel on a grid.

    Args:
        kernel: (out, in, k, k), as `conv2d` takes it, centred at k // 2.
        size: The grid (H, W).

    Returns:
        (H, W // 2 + 1, out, in), complex.

    Raises:
        ValueError: a grid smaller than the kernel.
    """
    rows, columns = kernel.shape[-2:]
    if size[0] < rows or size[1] < columns:
        raise ValueError(
            f"a circular convolution of kernel {rows}×{columns} needs an image at least as large, "
            f"got {size[0]}×{size[1]}"
        )
    grid = F.pad(kernel, (0, size[1] - columns, 0, size[0] - rows))
    grid = grid.roll((-(rows // 2), -(columns // 2)), (-2, -1))
    # conv2d correlates, so its transfer matrix is the conjugate of the kernel's transform.
    return torch.fft.rfft2(grid).conj().permute(2, 3, 0, 1)


def apply_frequencies(weight: Tensor, x: Tensor) -> Tensor:
    """Convolve images (B, in, H, W) circularly with transfer matrices (H, W // 2 + 1, out, in).

    Half precision is transformed in float32, and rounded once at the end.
    """
    real = torch.float64 if weight.dtype == torch.complex128 else torch.float32
    if len(x) == 0:  # which no library of transforms takes
        nothing = x.to(weight.dtype).reshape(*weight.shape[:2], weight.shape[3], 0)
        return (weight @ nothing).real.to(x.dtype).reshape(0, weight.shape[2], *x.shape[-2:])
    spectrum = torch.fft.rfft2(x.to(real)).permute(2, 3, 1, 0)
    y = torch.fft.irfft2((weight @ spectrum).permute(3, 2, 0, 1), s=x.shape[-2:])
    return y.to(x.dtype)


def circular_conv(weight: Tensor, bias: Tensor | None, size: tuple[int, int]) -> nn.Conv2d:
    """Return the plain circular convolution of transfer matrices, its kernel as large as the grid.

    Args:
        weight: (H, W // 2 + 1, out, in), complex.
        bias: (out,), or None.
        size: The grid (H, W).
    """
    kernel = torch.fft.irfft2(weight.conj().permute(2, 3, 0, 1), s=size)
    kernel = kernel.roll([(n - 1) // 2 for n in size], (-2, -1))
    conv = nn.Conv2d(
        kernel.shape[1],
        kernel.shape[0],
        size,
        padding="same",
        padding_mode="circular",
        bias=bias is not None,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(kernel)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
    return conv


class Bordered(nn.Module):
    """Run a module on the image with zeros around it, and crop its output back.

    Args:
        inner: A module that keeps the resolution.
        padding: Zeros on each side.
    """

    def __init__(self, inner: nn.Module, padding: int) -> None:
        """Keep both."""
        super().__init__()
        self.inner, self.padding = inner, padding

    def forward(self, x: Tensor) -> Tensor:
        """Pad, run and crop."""
        return crop(self.inner(pad(x, self.padding)), self.padding)


def pad(x: Tensor, padding: int) -> Tensor:
    """Surround images with zeros."""
    return F.pad(x, (padding,) * 4) if padding else x


def crop(x: Tensor, padding: int) -> Tensor:
    """Undo `pad`."""
    return x[..., padding:-padding, padding:-padding] if padding else x


class LDLTCircularConv2d(LipschitzLayer):
    """A residual block of circular convolutions that is L-Lipschitz by construction.

    The weights belong to an image size, the one given or that of the last input.

    Args:
        channels: Input channels.
        hidden: Channels of the inner layers, at least one.
        kernel_size: Side k of the free kernels, odd.
        out_channels: None is `channels`.
        image_size: (H, W) of the input; None takes what comes, and computes the weights anew for
            another size.
        padding: Zeros around the image, cropped after.
        lipschitz: L > 0.
        skip: `identity` (A = L I, one inner layer only) or `learned` (a circular convolution).
        wiring: Of a learned skip, as in `LDLTBlock`: `skip_first` (None is this) or `chain_first`.
        activation: A name of `ACTIVATIONS`, or a module of such a class.
        gain: As in `LDLTBlock`.
        skip_gain: As in `LDLTBlock`.

    Shape:
        (B, channels, H, W) -> (B, out_channels, H, W).

    Raises:
        ValueError: as in `LDLTBlock`; an even kernel; at the call an image of another size than
            `image_size`, or smaller than the kernel.
    """

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int],
        kernel_size: int = 3,
        *,
        out_channels: int | None = None,
        image_size: tuple[int, int] | None = None,
        padding: int = 0,
        lipschitz: float = 1.0,
        skip: Literal["identity", "learned"] = "identity",
        wiring: Literal["skip_first", "chain_first"] | None = None,
        activation: str | nn.Module = "relu",
        gain: float | None = None,
        skip_gain: float | None = None,
    ) -> None:
        """Make the kernels."""
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        n = len(hidden)
        if n == 0 or min(channels, out_channels, *hidden) < 1 or padding < 0:
            raise ValueError(
                f"channels={channels}, out_channels={out_channels} and hidden={tuple(hidden)} must "
                f"name at least one inner layer and be at least 1, and padding={padding} at least 0"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
        if skip not in ("identity", "learned") or wiring not in (None, "skip_first", "chain_first"):
            raise ValueError(
                f"skip must be 'identity' or 'learned' and wiring 'skip_first' or 'chain_first', "
                f"got {skip!r} and {wiring!r}"
            )
        self.identity = skip == "identity"
        if wiring is None and not self.identity:
            wiring = "skip_first"  # a joint start has kernels as large as the image
        self.wiring = check_wiring(skip, wiring, n)
        if self.identity and out_channels != channels:
            raise ValueError(
                f"skip='identity' needs out_channels = channels = {channels}, got {out_channels}"
            )
        self.lipschitz = check_lipschitz(lipschitz)
        self.activation = make_activation(activation)
        self.widths, self.out_channels, self.kernel_size = (
            (channels, *hidden),
            out_channels,
            kernel_size,
        )
        self.image_size, self.padding = image_size, padding
        self._seen = image_size
        self.gain = (0.3 if n == 1 else 1.0) if gain is None else gain
        self.skip_gain = (3.0 if n == 1 else 1.33) if skip_gain is None else skip_gain
        side = (kernel_size, kernel_size)
        for k in range(1, n + 1):
            kernel = torch.empty(self.widths[k], self.widths[k - 1], *side)
            self.register_parameter(f"k{k}", nn.Parameter(kernel))
        self.k0, self.kb = None, None
        if not self.identity:
            self.k0 = nn.Parameter(torch.empty(out_channels, channels, *side))
            self.kb = nn.Parameter(torch.empty(out_channels, self.widths[-1], *side))
        learns = not is_homogeneous(self.activation)
        for k in range(1, n + 1):
            self.register_parameter(f"bias{k}", nn.Parameter(torch.empty(self.widths[k])))
            value = nn.Parameter(torch.zeros(self.widths[k])) if learns else None
            self.register_parameter(f"log_multiplier{k}", value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernels; a learned skip starts as a multiple of the identity."""
        kernels = [self._own(f"k{k}") for k in range(1, len(self.widths))]
        for kernel in (*kernels, self.kb):
            if kernel is not None:
                nn.init.normal_(kernel, std=self.gain / math.sqrt(kernel[0].numel()))
        for k in range(1, len(self.widths)):
            bias, log_multiplier = self._own(f"bias{k}"), self._own(f"log_multiplier{k}")
            fan_in = self.get_parameter(f"k{k}")[0].numel()
            if bias is not None:
                nn.init.uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
            if log_multiplier is not None:
                nn.init.zeros_(log_multiplier)
        if self.k0 is not None:
            nn.init.zeros_(self.k0)
            middle = self.kernel_size // 2
            with torch.no_grad():
                eye = torch.eye(self.out_channels, self.widths[0])
                self.k0[:, :, middle, middle] = self.skip_gain * eye

    def compute(self, parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map the kernels to A, C_1 … C_n and B at every frequency, and λ."""
        assert self._seen is not None
        grid = (self._seen[0] + 2 * self.padding, self._seen[1] + 2 * self.padding)
        layers = range(1, len(self.widths))
        inner = tuple(kernel_frequencies(parameters[f"k{k}"], grid) for k in layers)
        multipliers = tuple(
            parameters[f"log_multiplier{k}"].exp()
            if f"log_multiplier{k}" in parameters
            else inner[0].real.new_ones(self.widths[k])
            for k in layers
        )
        if self.identity:
            c = math.sqrt(2) * self.lipschitz * bounded(inner[0])
            return c / multipliers[0].sqrt().unsqueeze(-1), multipliers[0]
        ends = [kernel_frequencies(parameters[name], grid) for name in ("k0", "kb")]
        free = Free(inner, torch.cat(ends, dim=-1), multipliers)
        block = (residual_block if self.wiring == "chain_first" else skip_block)(
            free, self.lipschitz
        )
        last = block.taps[-1]
        assert last is not None
        return (block.skip, *block.inner, last, *multipliers)

    def block(self, size: tuple[int, int]) -> LMIBlock:
        """Return the weights for images of a size, with their graph."""
        if self.image_size is not None and size != self.image_size:
            raise ValueError(
                f"the block was built for images of {self.image_size}, got {size}; "
                f"image_size=None takes any"
            )
        self._seen = size
        n, weights = len(self.widths) - 1, self.weights(size)
        if self.identity:
            c, multiplier = weights
            tap = c.mH / -self.lipschitz * multiplier
            eye = torch.eye(self.widths[0], dtype=c.dtype, device=c.device)
            return LMIBlock(self.lipschitz * eye, (c,), (tap,), (multiplier,))
        taps = (*[None] * (n - 1), weights[n + 1])
        return LMIBlock(weights[0], weights[1 : n + 1], taps, weights[n + 2 :])

    @torch.no_grad()
    def effective(self) -> LMIBlock:
        """Return the transfer matrices (H, W // 2 + 1, …) that the forward uses right now.

        Raises:
            ValueError: no image size is known yet.
        """
        return self.block(self._size())

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        block = self.block((x.shape[-2], x.shape[-1]))
        w = image = pad(x, self.padding)
        for k, c in enumerate(block.inner, start=1):
            bias = self._own(f"bias{k}")
            assert bias is not None
            w = self.activation(apply_frequencies(c, w) + bias[:, None, None])
        tap = block.taps[-1]
        assert tap is not None
        update = crop(apply_frequencies(tap, w), self.padding)
        if self.identity:
            return update + self.lipschitz * x
        return update + crop(apply_frequencies(block.skip, image), self.padding)

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return plain circular convolutions for the image size known, with equal outputs.

        Raises:
            ValueError: no image size is known yet.
        """
        block, size = self.effective(), self._size()
        grid = (size[0] + 2 * self.padding, size[1] + 2 * self.padding)
        skip = Scale(self.lipschitz)
        if not self.identity:
            skip = circular_conv(block.skip, None, grid)
        inner = [
            circular_conv(c, self.get_parameter(f"bias{k}"), grid)
            for k, c in enumerate(block.inner, start=1)
        ]
        last = block.taps[-1]
        assert last is not None
        taps = (*[None] * (len(inner) - 1), circular_conv(last, None, grid))
        plain = PlainBlock(skip, inner, taps, self.activation)
        return Bordered(plain, self.padding) if self.padding else plain

    def _size(self) -> tuple[int, int]:
        if self._seen is None:
            raise ValueError(
                "the weights belong to an image size: set image_size, or run the block once"
            )
        return self._seen

    def _own(self, name: str) -> Tensor | None:
        return self._parameters[name]

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        return (
            f"channels={self.widths[0]}, hidden={self.widths[1:]}, "
            f"out_channels={self.out_channels}, kernel_size={self.kernel_size}, "
            f"padding={self.padding}, lipschitz={self.lipschitz:g}, "
            f"skip={'identity' if self.identity else self.wiring}"
        )
