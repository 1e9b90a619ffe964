"""Common corruptions of images at five severities: noise, blur, contrast, brightness, encoding.

Eight of those of Hendrycks and Dietterich, as functions of pixels x in [0, 1] and a strength c:

    gaussian_noise     x + c ε, ε normal
    shot_noise         Poisson(c x) / c
    impulse_noise      a share c of the numbers becomes 0 or 1
    gaussian_blur      a Gaussian of standard deviation c pixels, edges repeated
    contrast           m + c (x − m), m the mean of the channel
    brightness         c more of the value of HSV, hue and saturation kept
    pixelate           reduced to a share c of each side by averaging, and enlarged again
    jpeg_compression   JPEG of quality c

and held in [0, 1]. The strengths for images of at most 64 pixels are those of CIFAR-10-C, for
larger ones those of ImageNet-C.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, and its repository hendrycks/robustness.
Differs from it: random numbers are a function of seed and image, whatever the batch; images are not
stored with eight bits in between, except where JPEG and `pixelate` need them.
"""

# Shape letters: N images, C channels, H height, W width.

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...zoo.registry import nearest
from ..data import counter_key

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt", "strength"]

SEVERITIES = (1, 2, 3, 4, 5)
SMALL_SIDE = 64  # pixels of the longer side, up to which an image is small

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]


def _gaussian_noise(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    return x + c * torch.randn(x.shape, generator=draw, dtype=x.dtype)


def _shot_noise(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    return torch.poisson(c * x, generator=draw) / c


def _impulse_noise(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    hit = torch.rand(x.shape, generator=draw) < c
    salt = torch.rand(x.shape, generator=draw) < 0.5
    return torch.where(hit, salt.to(x.dtype), x)


def _gaussian_blur(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    reach = int(4 * c + 0.5)  # where SciPy and scikit-image cut the Gaussian off
    places = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (places / c) ** 2)
    kernel = kernel / kernel.sum()
    planes = F.pad(x[:, None], (reach,) * 4, mode="replicate")
    planes = F.conv2d(planes, kernel.view(1, 1, -1, 1))
    return F.conv2d(planes, kernel.view(1, 1, 1, -1))[:, 0]


def _contrast(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    mean = x.mean((1, 2), keepdim=True)
    return mean + c * (x - mean)


def _brightness(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    value = x.amax(0, keepdim=True)
    brighter = (value + c).clamp(max=1.0)
    # Black has no hue: it becomes grey.
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-12)), brighter)


def _pixelate(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    from PIL import Image

    height, width = x.shape[1:]
    small = max(1, int(width * c)), max(1, int(height * c))
    box = Image.Resampling.BOX
    return _by_plane(x, lambda image: image.resize(small, box).resize((width, height), box))


def _jpeg_compression(x: Tensor, c: float, draw: torch.Generator) -> Tensor:
    from PIL import Image

    def compress(image: Any) -> Any:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(c))
        return Image.open(stream)

    if len(x) != 3:
        return _by_plane(x, compress)
    return _from_image(compress(_to_image(x)), x)


def _by_plane(x: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """Apply a change of grey images to every channel."""
    return torch.cat([_from_image(change(_to_image(plane[None])), x) for plane in x])


def _to_image(x: Tensor) -> Any:
    """An image of PIL with eight bits a channel, from one channel or three."""
    from torchvision.transforms.v2.functional import to_pil_image

    return to_pil_image((x * 255).round().to(torch.uint8))


def _from_image(image: Any, like: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(image).to(like.dtype) / 255


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}

SMALL: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.1),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
}
"""Strengths of severities 1 to 5 for images of at most `SMALL_SIDE` pixels: CIFAR-10-C."""

LARGE: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
}
"""The same for larger images: ImageNet-C."""


def strength(name: str, severity: int, side: int) -> float:
    """Return c of a corruption.

    Args:
        name: Of the corruption.
        severity: 1 to 5.
        side: Of the image, the longer one, in pixels.

    Raises:
        ValueError: no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption named {name!r}{nearest(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of 1, 2, 3, 4, 5, got {severity}")
    return (SMALL if side <= SMALL_SIDE else LARGE)[name][severity - 1]


def corrupt(pixels: Tensor, name: str, severity: int, *, seed: int = 0, first: int = 0) -> Tensor:
    """Return corrupted images; each is a function of itself, its number, and the seed.

    Args:
        pixels: (N, C, H, W) in [0, 1], on the CPU.
        name: One of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of what is random.
        first: Number of the first image in its fold.

    Raises:
        ValueError: no such corruption or severity, or pixels that are no images or not in [0, 1].
    """
    if pixels.dim() != 4:
        raise ValueError(f"pixels must be images (N, C, H, W), got shape {tuple(pixels.shape)}")
    c = strength(name, severity, max(pixels.shape[2:]))
    if not pixels.numel():
        return pixels.clone()
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(f"pixels must lie in [0, 1], got {low:g} to {high:g}")
    # PIL and the Poisson distribution want more bits than bfloat16 has.
    wide = pixels if pixels.dtype.itemsize > 2 else pixels.float()
    changed = []
    for number, image in enumerate(wide, first):
        draw = torch.Generator().manual_seed(counter_key(seed, number))
        changed.append(CORRUPTIONS[name](image, c, draw))
    return torch.stack(changed).clamp(0.0, 1.0).to(pixels.dtype)
