"""Handwritten digits, 8×8: the images that come with scikit-learn and need no network."""

from typing import Any

from ..augment import CropFlip
from ..data_set import Splits, data_sets
from ..image_arrays import ImageView, image_splits
from ..stratified_split import split_off

__all__ = ["digits"]

SOURCE = "UCI Optical Recognition of Handwritten Digits, CC BY 4.0, as in scikit-learn"


@data_sets.register(kind="image", source=SOURCE, shape=(1, 8, 8), num_classes=10)
def digits(*, augment: bool = True, classes: list[int] | None = None, rotation: int = 0) -> Splits:
    """1,797 digits of 8×8 pixels, bundled with scikit-learn.

    A fixed stratified partition: 1,257 to learn from, 180 to validate, 360 to test.

    Args:
        augment: Whether training images move by up to one pixel each way.
        classes: Numbers of the classes to keep, which are numbered anew in this order.
        rotation: Degrees by which all images are turned counter-clockwise: 0, 90, 180 or 270.
    """
    import torch
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    rest, test = split_off(labels, 360, name="test")
    return image_splits(
        (images[rest], labels[rest]),
        (images[test], labels[test]),
        validation=180,
        classes=[str(digit) for digit in range(10)],
        source=SOURCE,
        mean=(0.3053,),
        std=(0.3760,),
        scale=16.0,
        augment=CropFlip(pad=1, flip=False) if augment else None,
        view=ImageView(classes, rotation),
    )
