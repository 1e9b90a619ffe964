"""The sizes, the curvature and the weight of convolutions in a curved space."""

# Shape letters: N and M channels in and out, G groups.

import torch
from torch import nn

from ...sizes import check_sizes
from ..curvature import BallCurvature, curvature_of
from ..maths.hyperplanes import Place

__all__ = ["CurvedConv2d", "Pair", "place_of"]

Pair = int | tuple[int, int]


def place_of(stride: Pair, padding: Pair, dilation: Pair) -> Place:
    """Return where a kernel is put, both sides told."""
    return Place(_pair(stride), _pair(padding), _pair(dilation))


def _pair(x: Pair) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else (x[0], x[1])


class CurvedConv2d(nn.Module):
    """A convolution with a weight (M, N/G, kh, kw) and a curvature; the weight is not drawn yet.

    Args:
        in_channels: N, at least 1.
        out_channels: M, at least 1.
        kernel_size: Side or sides of the kernel.
        stride: As in `nn.Conv2d`, like the next three.
        padding: As above; pads with the origin.
        dilation: As above.
        groups: As above; divides N and M.
        curvature: c, or a shared `BallCurvature`.

    Raises:
        ValueError: a size below 1, groups that do not divide the channels, or a curvature that is
            not positive.
    """

    matrix_parameters = ("weight",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        curvature: float | BallCurvature,
    ) -> None:
        """Make the weight."""
        super().__init__()
        kernel = _pair(kernel_size)
        check_sizes(1, in_channels=in_channels, out_channels=out_channels, groups=groups)
        check_sizes(1, kernel_size=min(kernel))
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups = groups
        self.curvature = curvature_of(curvature)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={tuple(self.weight.shape[2:])}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}"
        )
