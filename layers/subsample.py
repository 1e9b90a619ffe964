"""Every s-th pixel of an image: all that a 1×1 kernel of stride s reads.

A strided 1×1 convolution is one of stride 1 of these pixels. Ours of few channels are computed so,
since oneDNN's gradient of the strided form, for channels-last images of fewer channels than a block
has and CPUs without AVX-512, writes past its workspace: the process dies, or the gradient is wrong
(uxlfoundation/oneDNN#6035).
"""

from torch import Tensor

__all__ = ["pixels_first", "subsample"]

Pair = tuple[int, int]

BLOCK = 16  # channels of oneDNN's widest blocks; those of AVX2 have 8


def subsample(x: Tensor, stride: Pair) -> Tensor:
    """Return the pixels of x (B, C, H, W) in rows 0, s, … and columns 0, t, …, laid out as x is."""
    return x if stride == (1, 1) else x[..., :: stride[0], :: stride[1]].clone()


def pixels_first(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Tensor, Pair]:
    """Return the image and the stride that an equal convolution takes.

    They are those given, unless the kernel is 1×1 and the channels few: then the pixels come first,
    and the stride is 1.

    Args:
        x: The image (B, C, H, W).
        kernel: (h, w).
        stride: (vertical, horizontal), like `padding`, which moves a 1×1 kernel off the pixels.
        padding: As above.
    """
    if kernel != (1, 1) or padding != (0, 0) or x.shape[1] >= BLOCK:
        return x, stride
    return subsample(x, stride), (1, 1)
