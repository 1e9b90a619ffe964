"""How a kernel moves over an image: stride, margins and what fills them, dilation.

It is what two successive convolutions share between them when they stand for one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from ...subsample import pixels_first

__all__ = ["Movement", "Pair"]

Pair: TypeAlias = int | tuple[int, int]


class Movement(NamedTuple):
    """Stride, margins and dilation, each as (vertical, horizontal).

    Attributes:
        stride: Pixels from one output to the next.
        margins: Pixels added ((above, below), (left, right)).
        dilation: Pixels from one entry of the kernel to the next.
        padding_mode: As in `nn.Conv2d`.
    """

    stride: tuple[int, int] = (1, 1)
    margins: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    padding_mode: str = "zeros"

    @classmethod
    def of(
        cls,
        kernel: tuple[int, int],
        stride: Pair,
        padding: Pair | str,
        dilation: Pair,
        padding_mode: str = "zeros",
    ) -> "Movement":
        """Read the arguments of `nn.Conv2d` for a kernel (h, w).

        Raises:
            ValueError: an unknown name of a padding, or "same" with a stride.
        """
        stride, dilation = pair(stride), pair(dilation)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding must be 'same', 'valid' or sizes, got {padding!r}")
            if padding == "same" and stride != (1, 1):
                raise ValueError(f"padding='same' needs stride 1, got {stride}; give sizes instead")
            same = padding == "same"
            h, w = (d * (k - 1) * same for d, k in zip(dilation, kernel, strict=True))
            margins = (h // 2, h - h // 2), (w // 2, w - w // 2)
        else:
            vertical, horizontal = pair(padding)
            margins = (vertical, vertical), (horizontal, horizontal)
        return cls(stride, margins, dilation, padding_mode)

    def arguments(self) -> dict[str, Any]:
        """Return the keywords of an `nn.Conv2d` that moves like this.

        Raises:
            ValueError: margins of two widths, which it has no keyword for.
        """
        (top, bottom), (left, right) = self.margins
        if top != bottom or left != right:
            raise ValueError(
                f"an even kernel has the margins {self.margins} with padding='same'; a plain "
                f"convolution takes one width an axis"
            )
        return {
            "stride": self.stride,
            "padding": (top, left),
            "dilation": self.dilation,
            "padding_mode": self.padding_mode,
        }

    def split(self) -> tuple["Movement", "Movement"]:
        """Return the part along the height and the part along the width."""
        (s, t), (u, v), (d, e), still = self.stride, self.margins, self.dilation, (0, 0)
        return (
            Movement((s, 1), (u, still), (d, 1), self.padding_mode),
            Movement((1, t), (still, v), (1, e), self.padding_mode),
        )

    def output_size(self, input_hw: Sequence[int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Return (H', W') for an input (H, W) and a kernel (h, w)."""
        height, width = (
            (size + sum(margin) - d * (k - 1) - 1) // s + 1
            for size, k, s, margin, d in zip(
                input_hw, kernel, self.stride, self.margins, self.dilation, strict=True
            )
        )
        return height, width

    def pad(self, x: Tensor) -> Tensor:
        """Return x (..., H, W) with its margins."""
        (top, bottom), (left, right) = self.margins
        if not (top or bottom or left or right):
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, (left, right, top, bottom), mode=mode)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """Convolve x (B, C, H, W) with a kernel; what `F.conv2d` cannot pad is padded first."""
        (top, bottom), (left, right) = self.margins
        if self.padding_mode != "zeros" or top != bottom or left != right:
            x, top, left = self.pad(x), 0, 0
        size = (kernel.shape[2], kernel.shape[3])
        x, stride = pixels_first(x, size, self.stride, (top, left))
        return F.conv2d(x, kernel, bias, stride, (top, left), self.dilation, groups)


def pair(value: Pair) -> tuple[int, int]:
    """Return (value, value) for a number, and a pair as it is."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
