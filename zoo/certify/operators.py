"""Linear operators of one sample: what moves and scales values, and copies of a small map.

`Gather` writes to each output one input times a number, or nothing. `Blocks` applies one base map,
a matrix or a convolution, to many groups of values, such as the tokens of a sequence. Both act on
columns and on rows in float64, and know three bounds:

    norm       of ‖N‖, proved
    loose      of ‖|N|‖, cheap, which rounding is multiplied with
    roundings  of one output value
"""

# Shape letters: N inputs, M outputs, K columns, T groups, I and O inputs and outputs of a group.

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...layers.lipschitz.proof.norms import (
    conv_bound,
    gamma,
    one_infinity_bound,
    product_up,
    root_up,
    spectral_bound,
)

__all__ = ["Base", "Blocks", "ConvMap", "Gather", "MatrixMap", "Operator", "SpectralMap"]

DENSE = 1024  # columns up to which a zero-padded convolution is bounded as the matrix that it is


class Operator:
    """A linear map R^N -> R^M in float64.

    Attributes:
        columns: N.
        rows: M.
    """

    columns: int
    rows: int

    def apply(self, columns: Tensor) -> Tensor:
        """Map columns (N, K) -> (M, K); differentiable."""
        raise NotImplementedError

    def adjoint(self, rows: Tensor) -> Tensor:
        """Multiply rows from the left: (K, M) -> (K, N)."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """Return the matrix (M, N)."""
        if self.columns <= self.rows:
            return self.apply(torch.eye(self.columns, dtype=torch.float64))
        return self.adjoint(torch.eye(self.rows, dtype=torch.float64))

    @cached_property
    def norm(self) -> float:
        """A proved bound of the spectral norm."""
        raise NotImplementedError

    @cached_property
    def loose(self) -> float:
        """A bound of the norm of the matrix of absolute values."""
        raise NotImplementedError

    @property
    def roundings(self) -> int:
        """Roundings of one output value, a sum of as many products."""
        raise NotImplementedError

    def same(self, other: "Operator") -> bool:
        """Whether another operator has the very same numbers."""
        raise NotImplementedError


class Gather(Operator):
    """Output i is scale_i times input index_i, or 0 where the index is −1.

    Args:
        index: (M,).
        scale: (M,), or None for ones.
        columns: N.
        rounded: Roundings of float64 that each scale has gone through.
    """

    def __init__(
        self, index: Tensor, scale: Tensor | None, columns: int, rounded: int = 0
    ) -> None:
        """Keep the parts."""
        self.index, self.scale, self.rounded = index, scale, rounded
        self.columns, self.rows = columns, len(index)

    def apply(self, columns: Tensor) -> Tensor:
        """Map columns (N, K) -> (M, K)."""
        if self.identity:
            found = columns
        elif self.full:
            found = columns[self.index]
        else:
            found = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])[self.index]
        return found if self.scale is None else found * self.scale[:, None]

    def adjoint(self, rows: Tensor) -> Tensor:
        """Map rows (K, M) -> (K, N)."""
        rows = rows if self.scale is None else rows * self.scale
        if self.identity:
            return rows
        out = rows.new_zeros(len(rows), self.columns + 1)
        place = self.index.where(self.index >= 0, self.columns)
        return out.index_add_(1, place, rows)[:, :-1]

    @cached_property
    def full(self) -> bool:
        """Whether every output reads an input."""
        return bool((self.index >= 0).all())

    @cached_property
    def identity(self) -> bool:
        """Whether output i reads input i, apart from the scale."""
        return self.rows == self.columns and torch.equal(self.index, torch.arange(self.rows))

    @cached_property
    def norm(self) -> float:
        """The largest column of the matrix, whose rows have one entry each."""
        if self.scale is None:
            used = self.index[self.index >= 0]
            most = int(used.bincount().max()) if len(used) else 0
            return root_up(most) if most > 1 else float(most)
        square = torch.zeros(self.columns + 1, dtype=torch.float64)
        place = self.index.where(self.index >= 0, self.columns)
        square.index_add_(0, place, self.scale.square())
        kept = self.index[self.index >= 0]
        count = int(kept.bincount().max()) if len(kept) else 0
        largest = float(square[:-1].max()) if self.columns else 0.0
        used = self.scale[self.index >= 0].abs()
        if count == 1 or not len(used):
            return product_up(float(used.max()) if len(used) else 0.0, 1 + gamma(self.rounded))
        return product_up(root_up(largest), 1 + gamma(count + 4 + self.rounded))

    @cached_property
    def loose(self) -> float:
        """The norm: absolute values change nothing."""
        return self.norm

    @property
    def roundings(self) -> int:
        """One product."""
        return 0 if self.scale is None else 1 + self.rounded

    def same(self, other: Operator) -> bool:
        """Whether index and scale agree."""
        return (
            isinstance(other, Gather)
            and self.columns == other.columns
            and torch.equal(self.index, other.index)
            and _equal(self.scale, other.scale)
        )


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
        return isinstance(other, MatrixMap) and _equal(self.weight, other.weight)


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
        return ConvMap(w, self.size, *self.options, self.rounded + rounded + 1)

    def same(self, other: Any) -> bool:
        """Whether numbers and options agree."""
        return (
            isinstance(other, ConvMap)
            and (self.size, self.options) == (other.size, other.options)
            and _equal(self.weight, other.weight)
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
        return isinstance(other, SpectralMap) and _equal(self.weight, other.weight)


Base = MatrixMap | ConvMap | SpectralMap


class Blocks(Operator):
    """Copies of one map, each on a group of inputs and writing a group of outputs.

    Args:
        base: The map, I inputs to O outputs.
        inputs: Places that each group reads (T, I); −1 reads a zero.
        outputs: Places that it writes (T, O), each once; −1 writes nothing.
        columns: N.
        rows: M.
    """

    def __init__(
        self, base: Base, inputs: Tensor, outputs: Tensor, columns: int, rows: int
    ) -> None:
        """Keep the parts."""
        self.base, self.inputs, self.outputs = base, inputs, outputs
        self.columns, self.rows = columns, rows
        self.read = Gather(inputs.flatten(), None, columns)
        self.write = Gather(outputs.flatten(), None, rows)

    def apply(self, columns: Tensor) -> Tensor:
        """Map columns (N, K) -> (M, K)."""
        groups = self.read.apply(columns).view(*self.inputs.shape, -1)
        found = self.base.apply(groups).reshape(self.outputs.numel(), -1)
        if self.write.identity:
            return found
        return self.write.adjoint(found.T).T

    def adjoint(self, rows: Tensor) -> Tensor:
        """Map rows (K, M) -> (K, N)."""
        groups = self.write.apply(rows.T).view(*self.outputs.shape, -1)
        return self.read.adjoint(self.base.adjoint(groups).reshape(self.inputs.numel(), -1).T)

    @cached_property
    def norm(self) -> float:
        """The base's norm, times the root of how many groups share an input."""
        spread = self.read.norm
        if spread > 1.0 and isinstance(self.base, ConvMap):
            size = self._circular(self.base)
            if size is not None:
                return self.base.bound(size, circular=True)
        return product_up(self.base.norm, spread)

    def _circular(self, base: ConvMap) -> tuple[int, ...] | None:
        """Return the size of the image whose periodic continuation is read, or None."""
        axes = len(base.size)
        if base.transposed or any(base.padding) or axes > 3:
            return None
        spans = [d * (k - 1) for d, k in zip(base.dilation, base.weight.shape[2:], strict=True)]
        size = tuple(n - span for n, span in zip(base.size, spans, strict=True))
        if any(n < span // 2 or n < 1 or span % 2 for n, span in zip(size, spans, strict=True)):
            return None
        # The middle of what is read, continued, must be all that is read.
        ids = self.inputs.view(len(self.inputs), base.channels, *base.size).double()
        middle = ids
        pads: list[int] = []
        for axis, (n, span) in enumerate(zip(size, spans, strict=True)):
            middle = middle.narrow(2 + axis, span // 2, n)
            pads = [span // 2, span // 2, *pads]
        once = middle[middle >= 0]
        whole = bool((middle >= 0).all()) and len(once.unique()) == once.numel()
        again = F.pad(middle, pads, mode="circular") if any(pads) else middle
        return size if whole and torch.equal(again, ids) else None

    @cached_property
    def loose(self) -> float:
        """The base's, times the root of how many groups share an input."""
        return product_up(self.base.loose, self.read.norm)

    @property
    def roundings(self) -> int:
        """Those of the base."""
        return self.base.roundings

    def same(self, other: Operator) -> bool:
        """Whether base and places agree."""
        return (
            isinstance(other, Blocks)
            and (self.columns, self.rows) == (other.columns, other.rows)
            and torch.equal(self.inputs, other.inputs)
            and torch.equal(self.outputs, other.outputs)
            and self.base.same(other.base)
        )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or torch.equal(a, b)


def _each(value: Sequence[int], axes: int) -> tuple[int, ...]:
    value = tuple(int(v) for v in value)
    return value * axes if len(value) == 1 else value
