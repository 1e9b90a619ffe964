"""A convolution kernel as a matrix, and a product of two factors as two convolutions.

The kernel K[o, i, h, w] of every group is read as a matrix M with rows and columns

    scheme        rows     columns      first convolution        second convolution
    channel       o        (i, h, w)    right: h×w               left: 1×1
    spatial       (i, h)   (o, w)       left: h×1                right: 1×w
    input         i        (o, h, w)    left: 1×1                right: h×w
    depthwise     i        (h, w)       left: 1×1                right: h×w, one group a filter o

and M = left right, left (rows, rank), right (rank, columns), is exactly two successive convolutions
over `rank` channels a group, whatever stride, padding and dilation. Only `channel` is a linear map
y = M x of patches, as in `nn.Linear`; the others tie i to the rows, so left acts first. A leading
axis holds one matrix a group where there is more than one; `depthwise` always has one a filter o.

Source: channel and spatial are the two splits of Xu et al. 2018, "Trained Rank Pruning for
Efficient Deep Neural Networks", arXiv:1812.02402, and depthwise its network decoupling; spatial is
that of Jaderberg et al. 2014, "Speeding up Convolutional Neural Networks with Low Rank Expansions",
arXiv:1405.3866.
Differs from it: all schemes take groups, any padding mode, rectangular kernels and rank 0.
"""

# Shape letters: B images, o filters, i channels of a group, h×w kernel, g groups, r rank.

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Literal, get_args

from torch import Tensor

from .stride_padding import Movement, Pair

__all__ = ["SCHEMES", "Scheme", "Unfolding"]

Scheme = Literal["channel", "spatial", "input", "depthwise"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

# Axes of K as (g, o, i, h, w), numbered 0 to 4: those of the batch, of the rows, of the columns.
AXES: dict[Scheme, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "channel": ((0,), (1,), (2, 3, 4)),
    "spatial": ((0,), (2, 3), (1, 4)),
    "input": ((0,), (2,), (1, 3, 4)),
    "depthwise": ((0, 1), (2,), (3, 4)),
}


@dataclass(frozen=True)
class Unfolding:
    """How the kernels of one shape become matrices.

    Args:
        scheme: "channel", "spatial", "input" or "depthwise".
        kernel_shape: (o, i, h, w) of `nn.Conv2d.weight`: all filters, the channels of one group.
        groups: g, a divisor of the number of filters.

    Attributes:
        matrix_shape: (rows, columns), with a leading number of matrices where groups > 1 or
            depthwise.

    Raises:
        ValueError: an unknown scheme, a shape that is not a kernel's, or groups that do not divide.
    """

    scheme: Scheme
    kernel_shape: tuple[int, int, int, int]
    groups: int = 1
    # Fields, since torch.compile cannot trace the lock of a cached property before Python 3.12.
    matrix_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _sizes: tuple[int, int, int, int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the settings and keep what every forward pass looks up."""
        shape, groups = self.kernel_shape, self.groups
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {SCHEMES}, got {self.scheme!r}")
        if len(shape) != 4 or min(shape) < 1:
            raise ValueError(f"kernel_shape must be four sizes (o, i, h, w), got {shape}")
        if groups < 1 or shape[0] % groups:
            raise ValueError(f"groups must divide the {shape[0]} filters, got {groups}")
        sizes = groups, shape[0] // groups, *shape[1:]
        matrix = tuple(prod(sizes[axis] for axis in axes) for axes in AXES[self.scheme])
        if groups == 1 and self.scheme != "depthwise":
            matrix = matrix[1:]
        object.__setattr__(self, "_sizes", sizes)
        object.__setattr__(self, "matrix_shape", matrix)

    @property
    def max_rank(self) -> int:
        """Rank at which factors can stand for any kernel."""
        return min(self.matrix_shape[-2:])

    @property
    def break_even(self) -> float:
        """Rank below which factors have fewer parameters than the kernel."""
        rows, columns = self.matrix_shape[-2:]
        return rows * columns / (rows + columns)

    @property
    def second_groups(self) -> int:
        """Groups of the second convolution; the first has those of the kernel."""
        return self.kernel_shape[0] if self.scheme == "depthwise" else self.groups

    def parameters(self, rank: int) -> int:
        """Return the number of entries of both factors; the bias is not counted."""
        return sum(self._factor_sizes(rank))

    def macs(
        self,
        rank: int | None,
        input_hw: tuple[int, int],
        *,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        padding_mode: str = "zeros",
    ) -> int:
        """Return multiply-accumulates of one image through the factors, or through the kernel.

        Products with padding count, as is usual; the bias does not. `spatial` with a horizontal
        stride, `input` and `depthwise` with any run their first convolution over more pixels than
        the output has, so their cost is not `parameters` times those.

        Args:
            rank: r ≥ 0, or None for the whole kernel in one convolution.
            input_hw: (H, W).
            stride: As in `nn.Conv2d`, like all that follow.
            padding: Pixels or a name.
            dilation: Pixels from one entry of the kernel to the next.
            padding_mode: Costs nothing.
        """
        whole = Movement.of(self.kernel_shape[2:], stride, padding, dilation, padding_mode)
        pixels = prod(whole.output_size(input_hw, self.kernel_shape[2:]))
        if rank is None:
            return pixels * prod(self.kernel_shape)
        first, second = self._factor_sizes(rank)
        h, w = self.kernel_shape[2:]
        side = {"channel": (h, w), "spatial": (h, 1)}.get(self.scheme, (1, 1))
        middle = prod(self._movements(whole)[0].output_size(input_hw, side))
        return middle * first + pixels * second

    def to_matrix(self, kernel: Tensor) -> Tensor:
        """Return the matrix of a kernel.

        Raises:
            ValueError: another shape than `kernel_shape`.
        """
        if kernel.shape != self.kernel_shape:
            raise ValueError(
                f"kernel has shape {tuple(kernel.shape)}, this unfolding takes {self.kernel_shape}"
            )
        return kernel.reshape(self._sizes).permute(self._order).reshape(self.matrix_shape)

    def to_kernel(self, matrix: Tensor) -> Tensor:
        """Return the kernel of a matrix; the inverse of `to_matrix`.

        Raises:
            ValueError: another shape than `matrix_shape`.
        """
        if matrix.shape != self.matrix_shape:
            raise ValueError(
                f"matrix has shape {tuple(matrix.shape)}, this unfolding takes {self.matrix_shape}"
            )
        order = self._order
        inverse = sorted(range(5), key=order.__getitem__)
        split = matrix.reshape([self._sizes[axis] for axis in order])
        return split.permute(inverse).reshape(self.kernel_shape)

    def kernels(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels of the first and of the second convolution.

        Args:
            left: (..., rows, r).
            right: (..., r, columns), r at least 1.

        Returns:
            (g r, i, ·, ·) for `groups` groups, or (o r, i, 1, 1) with the scheme "depthwise", and
            (o, r, ·, ·) for `second_groups` groups.

        Raises:
            ValueError: factors of another shape.
        """
        self._check(left, right)
        (g, o, i, h, w), rank = self._sizes, right.shape[-2]
        if self.scheme == "channel":
            return right.reshape(g * rank, i, h, w), left.reshape(g * o, rank, 1, 1)
        if self.scheme == "spatial":
            return _rank_first(left, g, i, h, rank), _filters_first(right, g, rank, o, 1, w)
        first = left.mT.reshape(-1, i, 1, 1)
        if self.scheme == "depthwise":
            return first, right.reshape(g * o, rank, h, w)
        return first, _filters_first(right, g, rank, o, h, w)

    def movements(
        self,
        *,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        padding_mode: str = "zeros",
    ) -> tuple[Movement, Movement]:
        """Return how the first and the second convolution move, from the arguments of the one."""
        whole = Movement.of(self.kernel_shape[2:], stride, padding, dilation, padding_mode)
        return self._movements(whole)

    def convolve(
        self,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        bias: Tensor | None = None,
        *,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        padding_mode: str = "zeros",
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Convolve with the kernel of left right, as two convolutions and without forming it.

        Args:
            x: (B, g i, H, W).
            left: (..., rows, r), with r ≥ 0; r = 0 is a kernel of zeros.
            right: (..., r, columns).
            bias: (o,) or None; it joins the second convolution.
            stride: As in `nn.Conv2d`, like the next three.
            padding: Pixels, "same" or "valid".
            dilation: Pixels from one entry of the kernel to the next.
            padding_mode: Each axis is padded once, before the convolution that moves along it.
            between: Applied to the rank channels (B, g r, H', W'), or (B, o r, H, W) with the
                scheme "depthwise", between the two convolutions.

        Returns:
            (B, o, H', W'), the size that `nn.Conv2d` gives.

        Raises:
            ValueError: factors of another shape, or padding="same" with a stride.
        """
        movement = Movement.of(self.kernel_shape[2:], stride, padding, dilation, padding_mode)
        if right.shape[-2] == 0:
            self._check(left, right)
            return self._nothing(x, left, right, bias, movement)
        first, second = self.kernels(left, right)
        down, across = self._movements(movement)
        hidden = down.convolve(x, first, None, self.groups)
        if between is not None:
            hidden = between(hidden)
        return across.convolve(hidden, second, bias, self.second_groups)

    @property
    def _order(self) -> tuple[int, ...]:
        batch, rows, columns = AXES[self.scheme]
        return batch + rows + columns

    def _check(self, left: Tensor, right: Tensor) -> None:
        *batch, rows, columns = self.matrix_shape
        rank = right.shape[-2]
        if left.shape != (*batch, rows, rank) or right.shape != (*batch, rank, columns):
            raise ValueError(
                f"left {tuple(left.shape)} and right {tuple(right.shape)} are not factors of a "
                f"matrix {self.matrix_shape}"
            )

    def _factor_sizes(self, rank: int) -> tuple[int, int]:
        """Entries of the factor that acts first, and of the other."""
        if rank < 0:
            raise ValueError(f"rank must be at least 0, got {rank}")
        *batch, rows, columns = self.matrix_shape
        left, right = prod(batch) * rows * rank, prod(batch) * columns * rank
        return (right, left) if self.scheme == "channel" else (left, right)

    def _movements(self, movement: Movement) -> tuple[Movement, Movement]:
        """Divide a movement between the two convolutions."""
        if self.scheme == "spatial":
            return movement.split()
        return (movement, Movement()) if self.scheme == "channel" else (Movement(), movement)

    def _nothing(
        self, x: Tensor, left: Tensor, right: Tensor, bias: Tensor | None, movement: Movement
    ) -> Tensor:
        """Return the output of rank 0: the bias everywhere."""
        filters, _, *kernel = self.kernel_shape
        size = movement.output_size(x.shape[-2:], (kernel[0], kernel[1]))
        # Sums over nothing: zeros that give all inputs the gradient that DDP waits for.
        zero = (left.sum() + right.sum()).to(x.dtype) + x[:0].sum()
        y = zero.expand(*x.shape[:-3], filters, *size)
        return y.clone() if bias is None else y + bias.view(-1, 1, 1)


# Every forward pass of a factored convolution comes through here, and the patterns, read by einops,
# would slow a small one down.


def _rank_first(left: Tensor, g: int, i: int, h: int, rank: int) -> Tensor:
    """Rearrange (g i h) r -> (g r) i h 1: a kernel of r outputs for each group."""
    return left.reshape(g, i, h, rank).permute(0, 3, 1, 2).reshape(g * rank, i, h, 1)


def _filters_first(right: Tensor, g: int, rank: int, o: int, h: int, w: int) -> Tensor:
    """Rearrange (g r) (o h w) -> (g o) r h w: a kernel of r inputs for each filter."""
    return right.reshape(g, rank, o, h, w).transpose(1, 2).reshape(g * o, rank, h, w)
