"""An image file as an RGB image of eight bits, or a refusal that names the file.

What a file holds beyond that is decided here once: orientation, transparency, wide numbers.
"""

from pathlib import Path
from typing import Any

__all__ = ["BACKGROUND", "decode_image"]

BACKGROUND = (255, 255, 255)
"""What transparent pixels lie on: white, as in a document."""

WIDE = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of 16 bits a pixel."""


def decode_image(path: Path) -> Any:
    """Return a PIL image in RGB.

    The orientation that a camera recorded (EXIF) is applied. Transparent pixels are composited on
    `BACKGROUND`. Images of 16 bits a pixel are divided by 257, so that 65,535 becomes 255 whatever
    the image's own range; images of floats or of 32-bit integers have no known range and are
    refused.

    Raises:
        ValueError: the file is missing or damaged, or its numbers have no known range.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image)
            turned.load()
    # PIL reports a broken PNG chunk as a SyntaxError, and a file too large to be true as its own.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be decoded: {error}; replace or remove the file"
        ) from error
    if turned.mode in WIDE:
        narrow = np.asarray(turned).astype(np.uint16) // 257
        return Image.fromarray(narrow.astype(np.uint8)).convert("RGB")
    if turned.mode in ("I", "F"):
        numbers = "floats" if turned.mode == "F" else "32-bit integers"
        raise ValueError(
            f"{path} holds {numbers}, whose range nobody states; save it with 8 or 16 bits a pixel"
        )
    if turned.has_transparency_data:
        seen = turned.convert("RGBA")
        white = Image.new("RGBA", seen.size, (*BACKGROUND, 255))
        return Image.alpha_composite(white, seen).convert("RGB")
    return turned.convert("RGB")
