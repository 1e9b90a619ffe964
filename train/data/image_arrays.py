"""From labelled image arrays to splits: what all small image sets share."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .augment import Normalize
from .data_set import Splits
from .download import fingerprint
from .fold_storage import ArrayFold, Augment
from .stratified_split import split_off

__all__ = ["image_splits"]


def image_splits(
    learning: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    validation: int,
    classes: Sequence[str],
    source: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: float = 255.0,
    augment: Augment | None = None,
) -> Splits:
    """Cut a validation fold out of the learning images and wrap the three folds.

    Args:
        learning: Images (N, C, H, W) in uint8 and labels (N,) in int64.
        test: The same, for the test fold.
        validation: Images to validate on, taken from the learning images, stratified.
        classes: Their names.
        source: Where the images come from.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].
        scale: Value of the brightest pixel.
        augment: Applied to the training fold only.

    Raises:
        ValueError: validation leaves nothing to learn from; a label has no name.
    """
    images, labels = learning
    for fold in (labels, test[1]):
        if int(fold.min()) < 0 or int(fold.max()) >= len(classes):
            raise ValueError(
                f"labels must lie in [0, {len(classes) - 1}], got {int(fold.min())} to"
                f" {int(fold.max())}; the files are damaged, fetch them again"
            )
    rest, chosen = split_off(labels, validation)
    arrays = {
        "train": (images[rest], labels[rest]),
        "validation": (images[chosen], labels[chosen]),
        "test": test,
    }
    normalize = Normalize(mean, std, scale)
    folds: dict[str, Any] = {
        name: ArrayFold(*pair, transform=normalize, augment=augment if name == "train" else None)
        for name, pair in arrays.items()
    }
    about = {
        "source": source,
        "classes": list(classes),
        "sizes": {name: len(fold) for name, fold in folds.items()},
        "sha256": {name: fingerprint(*pair) for name, pair in arrays.items()},
    }
    shape = tuple(images.shape[1:])
    return Splits("image", shape, len(classes), **folds, about=about, mean=mean, std=std)
