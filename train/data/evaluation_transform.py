"""The way of an image from its file to a model in evaluation: resized, cut, normalised.

It is the same for the test fold of a data set of files and for a new file: what a trained model
keeps of it, under timm's names, is enough to make it again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .decode_image import decode_image

__all__ = ["evaluation_steps", "normalizing_steps", "read_image"]


def evaluation_steps(
    size: tuple[int, int], resize: int | tuple[int, int], interpolation: str = "bilinear"
) -> list[nn.Module]:
    """List the transforms of a PIL image that bring it to a size: resized, then cut at its centre.

    Args:
        size: Height and width that the model sees, in pixels.
        resize: Shorter side before the cut, or both.
        interpolation: Of the resizing, by torchvision's name.
    """
    from torchvision.transforms import v2

    return [v2.Resize(resize, v2.InterpolationMode(interpolation)), v2.CenterCrop(list(size))]


def normalizing_steps(mean: Sequence[float], std: Sequence[float]) -> list[nn.Module]:
    """List the transforms of a PIL image that turn it into (pixel − mean)/std, channel by channel.

    Args:
        mean: Per channel, of pixels in [0, 1].
        std: The same, above 0.
    """
    from torchvision.transforms import v2

    return [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(mean), list(std)),
    ]


def read_image(path: Path, facts: Mapping[str, Any]) -> Tensor:
    """Read an image file as a trained model reads it.

    Args:
        path: The file.
        facts: What the model keeps of its data: `input_size` (C, H, W), `mean`, `std` and, where
            they are not the usual, `crop_pct`, `crop_mode` and `interpolation`.

    Returns:
        One image (C, H, W).

    Raises:
        ValueError: the file cannot be decoded, or the facts are of no image of one or three
            channels that is cut at its centre.
    """
    from torchvision.transforms import v2

    channels, height, width = facts["input_size"]
    if channels not in (1, 3) or facts.get("crop_mode", "center") != "center":
        raise ValueError(
            f"images of {channels} channels with crop_mode={facts.get('crop_mode', 'center')} are "
            f"not read from files; only grey and colour images, cut at the centre, are"
        )
    # timm rounds down too: the share of a resize says it exactly.
    tall, wide = (int(side / facts.get("crop_pct", 1.0)) for side in (height, width))
    resize = tall if height == width else (tall, wide)
    steps = evaluation_steps((height, width), resize, facts.get("interpolation", "bilinear"))
    image = decode_image(path).convert("L" if channels == 1 else "RGB")
    whole = [*steps, *normalizing_steps(facts["mean"], facts["std"]), v2.ToPureTensor()]
    return v2.Compose(whole)(image)
