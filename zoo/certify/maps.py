"""Base maps of `Blocks`: a matrix, a convolution, a circular convolution by transfer matrices.

Each maps groups (T, I, K) to (T, O, K), T groups of I values in K columns, and back by its adjoint,
and knows a proved bound of its norm, a bound of the norm with absolute values, and the roundings of
one output.
"""

# Shape letters: T groups, I and O inputs and outputs of a group, K columns, H and W of images.

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...layers.lipschitz.proof.norms import (
    conv_bound,
    gamma,
    one_infinity_bound,
    product_up,
    spectral_bound,
)

__all__ = ["ConvMap", "MatrixMap", "SpectralMap", "equal"]

DENSE = 1024  # columns up to which a zero-padded convolution is bounded as the matrix that it is


class MatrixMap:
    """One matrix for all groups (O, I), or one for each (T, O, I).

    Args:
        weight: In float64.
        error: Bound of the spectral norm of what the true matrices differ by.
    """

    def __init__(self, weight: Tensor, error: float = 0.0) -> None:
        """Keep the matrix."""
        self.weight, self.error = weight, error

    @property
    def sizes(self) -> tuple[int, int]:
        """I and O."""
        return self.weight.shape[-1], self.weight.shape[-2]

    def apply(self, groups: Tensor) -> Tensor:
        """Map (T, I, K) -> (T, O, K)."""
        return self.weight @ groups

    def adjoint(self, groups: Tensor) -> Tensor:
        """Map (T, O, K) -> (T, I, K)."""
        return self.weight.mT @ groups

    @cached_property
    def norm(self) -> float:
        """A proved bound of the largest spectral norm."""
        return spectral_bound(self.weight, error=self.error)

    @cached_property
    def loose(self) -> float:
        """A bound of the norm of |W|."""
        w = self.weight.flatten(0, -3) if self.weight.dim() > 2 else self.weight[None]
        return max((one_infinity_bound(m) for m in w), default=0.0) + self.error

    @property
    def roundings(self) -> int:
        """A product for each input."""
        return self.weight.shape[-1]

    def same(self, other: Any) -> bool:
        """Whether the numbers agree."""
        return isinstance(other, MatrixMap) and equal(self.weight, other.weight)


class ConvMap:
    """A convolution on images of one size.

    Args:
        weight: In float64, as torch stores it.
        size: Of the image that is read, without its channels.
        stride: Of each axis.
        padding: Of each axis.
        dilation: Of each axis.
        transposed: Whether it is a transposed convolution.
        output_padding: Of a transposed one.
        groups: Of the channels.
        rounded: Roundings of float64 that each weight has gone through.
    """

    def __init__(
        self,
        weight: Tensor,
        size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
        rounded: int = 0,
    ) -> None:
        """Keep the parts."""
        axes = len(size)
        self.weight, self.size, self.groups = weight, tuple(size), groups
        self.rounded = rounded
        self.stride, self.padding = _each(stride, axes), _each(padding, axes)
        self.dilation, self.output_padding = _each(dilation, axes), _each(output_padding, axes)
        self.transposed = transposed
        self.multiple: tuple[ConvMap, float] | None = None
        self.channels = weight.shape[0] if transposed else weight.shape[1] * groups

    @property
    def options(self) -> tuple[Any, ...]:
        """What `aten.convolution` takes behind the bias."""
        return (
            self.stride, self.padding, self.dilation, self.transposed, self.output_padding,
            self.groups,
        )  # fmt: skip

    @cached_property
    def out_shape(self) -> tuple[int, ...]:
        """Channels and size of the output."""
        like = torch.empty(1, self.channels, *self.size, dtype=torch.float64, device="meta")
        weight = self.weight.to("meta")
        return tuple(torch.ops.aten.convolution(like, weight, None, *self.options).shape[1:])

    @property
    def sizes(self) -> tuple[int, int]:
        """I and O."""
        return self.channels * math.prod(self.size), math.prod(self.out_shape)

    def apply(self, groups: Tensor) -> Tensor:
        """Map (T, I, K) -> (T, O, K)."""
        t, _, k = groups.shape
        images = groups.permute(0, 2, 1).reshape(t * k, self.channels, *self.size)
        found = torch.ops.aten.convolution(images, self.weight, None, *self.options)
        return found.reshape(t, k, -1).permute(0, 2, 1)

    def adjoint(self, groups: Tensor) -> Tensor:
        """Map (T, O, K) -> (T, I, K)."""
        t, _, k = groups.shape
        given = groups.permute(0, 2, 1).reshape(t * k, *self.out_shape)
        like = given.new_empty(1).expand(t * k, self.channels, *self.size)
        found = torch.ops.aten.convolution_backward(
            given, like, self.weight, None, *self.options, [True, False, False]
        )[0]
        return found.reshape(t, k, -1).permute(0, 2, 1)

    @cached_property
    def norm(self) -> float:
        """A proved bound of the spectral norm."""
        if self.multiple is not None:
            base, factor = self.multiple
            return product_up(factor, base.norm)
        return self.bound(self.size)

    def bound(self, size: Sequence[int], circular: bool = False) -> float:
        """Bound the norm on images of a size, continued periodically or with zeros."""
        image = self.out_shape[1:] if self.transposed else size
        # Unpadded outputs read no more than padded ones.
        padding = None if self.transposed and any(self.output_padding) else self.padding
        found = conv_bound(
            self.weight, image, stride=self.stride, padding=padding, dilation=self.dilation,
            groups=self.groups, circular=circular, roundings=self.rounded,
        )  # fmt: skip
        inputs, outputs = self.sizes
        if circular or min(inputs, outputs) > DENSE or inputs * outputs > 4 * DENSE**2:
            return found
        eye = torch.eye(inputs, dtype=torch.float64)[None]
        # Products with zeros and ones round nothing: the entries are those of the kernel.
        matrix = self.apply(eye)[0]
        lost = product_up(gamma(self.rounded), float(matrix.norm()) * (1 + 1e-6))
        return min(found, spectral_bound(matrix, error=lost))

    @cached_property
    def loose(self) -> float:
        """A bound of the norm of the convolution with |kernel|."""
        flat = self.weight.abs().flatten(2).sum(2)
        return max(one_infinity_bound(g) for g in flat.unflatten(0, (self.groups, -1)))

    @property
    def roundings(self) -> int:
        """A product for each tap."""
        taps = self.weight[0].numel() if not self.transposed else self.weight[:, 0].numel()
        return taps + self.rounded

    def scaled(self, factors: Tensor, rounded: int) -> "ConvMap":
        """Return the convolution with each output channel times a number."""
        return self._scaled(factors, rounded, outputs=True)

    def read_scaled(self, factors: Tensor, rounded: int) -> "ConvMap":
        """Return the convolution that reads each input channel times a number."""
        return self._scaled(factors, rounded, outputs=False)

    def _scaled(self, factors: Tensor, rounded: int, *, outputs: bool) -> "ConvMap":
        w = self.weight
        around = [1] * (w.dim() - 2)
        if outputs != self.transposed:
            w = w * factors.view(-1, 1, *around)  # one for each row of the stored weight
        else:
            rows = factors.view(self.groups, -1).repeat_interleave(len(w) // self.groups, 0)
            w = w * rows.view(*rows.shape, *around)
        found = ConvMap(w, self.size, *self.options, rounded=self.rounded + rounded + 1)
        if bool((factors == factors[:1]).all()):
            # Several multiples of one convolution have one norm to be proved.
            factor = product_up(abs(float(factors[0])), 1 + gamma(rounded))
            found.multiple = (self, factor)
        return found

    def same(self, other: Any) -> bool:
        """Whether numbers and options agree."""
        return (
            isinstance(other, ConvMap)
            and (self.size, self.options) == (other.size, other.options)
            and equal(self.weight, other.weight)
        )


class SpectralMap:
    """A circular convolution by transfer matrices.

    y = irfft2(W rfft2(x)): the inverse transform takes the real part, which makes nothing longer.

    Args:
        weight: W (H, W // 2 + 1, O, I) in complex128.
        size: H and W of the images.
    """

    def __init__(self, weight: Tensor, size: tuple[int, int]) -> None:
        """Keep the matrices."""
        self.weight, self.size, self.error = weight, size, 0.0

    @property
    def channels(self) -> tuple[int, int]:
        """Channels that are read and written."""
        return self.weight.shape[-1], self.weight.shape[-2]

    @property
    def sizes(self) -> tuple[int, int]:
        """I and O."""
        pixels = math.prod(self.size)
        return self.channels[0] * pixels, self.channels[1] * pixels

    def apply(self, groups: Tensor) -> Tensor:
        """Map (T, I, K) -> (T, O, K)."""
        return self._convolved(groups, self.weight, self.channels[0])

    def adjoint(self, groups: Tensor) -> Tensor:
        """Map (T, O, K) -> (T, I, K)."""
        return self._convolved(groups, self.weight.mH, self.channels[1])

    def _convolved(self, groups: Tensor, weight: Tensor, channels: int) -> Tensor:
        t, _, k = groups.shape
        images = groups.permute(0, 2, 1).reshape(t * k, channels, *self.size)
        spectrum = torch.fft.rfft2(images).permute(2, 3, 1, 0)
        found = torch.fft.irfft2((weight @ spectrum).permute(3, 2, 0, 1), s=self.size)
        return found.reshape(t, k, -1).permute(0, 2, 1)

    @cached_property
    def norm(self) -> float:
        """The largest norm of a transfer matrix, proved."""
        return spectral_bound(self.weight)

    @cached_property
    def loose(self) -> float:
        """A bound of what both transforms and the products between them may add up to."""
        kernel = torch.fft.irfft2(self.weight.permute(2, 3, 0, 1), s=self.size)
        direct = one_infinity_bound(kernel.abs().flatten(2).sum(2)) * (1 + 1e-6)
        return max(direct, float(torch.linalg.matrix_norm(self.weight.abs()).max()) * (1 + 1e-6))

    @property
    def roundings(self) -> int:
        """Generously: a product for each pixel and channel."""
        return 16 * (math.prod(self.size) + max(self.channels) + 256)

    def same(self, other: Any) -> bool:
        """Whether the numbers agree."""
        return isinstance(other, SpectralMap) and equal(self.weight, other.weight)


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers, or are both None."""
    if a is None or b is None:
        return a is b
    return a is b or torch.equal(a, b)


def _each(value: Sequence[int], axes: int) -> tuple[int, ...]:
    value = tuple(int(v) for v in value)
    return value * axes if len(value) == 1 else value
