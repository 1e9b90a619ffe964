"""From labelled image arrays to splits: what all small image sets share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .augment import Normalize
from .data_set import Splits
from .download import fingerprint
from .fold_storage import ArrayFold, Augment
from .stratified_split import split_off

__all__ = ["ImageView", "image_splits"]

Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ImageView:
    """A part of an image set's classes, and which way up its images are.

    The folds are cut before classes are left out, so an image to learn from in one view is never
    one to validate or to test on in another.

    Args:
        classes: Numbers of the classes that stay, which are numbered anew in this order; None is
            all.
        rotation: Degrees by which all images of all folds are turned counter-clockwise.

    Raises:
        ValueError: no class, one twice, or a rotation that is no multiple of 90 in [0, 270].
    """

    classes: Sequence[int] | None = None
    rotation: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.rotation not in (0, 90, 180, 270):
            raise ValueError(f"data.rotation must be 0, 90, 180 or 270, got {self.rotation}")
        if self.classes is not None and not 0 < len(set(self.classes)) == len(self.classes):
            raise ValueError(
                f"data.classes must name some classes, each once, got {list(self.classes)}; "
                f"leave it out for all"
            )

    def names(self, classes: Sequence[str]) -> list[str]:
        """Return the names of the classes that stay.

        Args:
            classes: Names of all.

        Raises:
            ValueError: a number that no class has.
        """
        chosen = range(len(classes)) if self.classes is None else self.classes
        for number in chosen:
            if not 0 <= number < len(classes):
                raise ValueError(
                    f"data.classes must lie in [0, {len(classes) - 1}], got {number}; the classes "
                    f"are numbered from 0"
                )
        return [classes[number] for number in chosen]

    def fold(self, name: str, images: Tensor, labels: Tensor) -> Labelled:
        """Return the images and labels of a fold that are seen.

        Raises:
            ValueError: the fold has none of the classes.
        """
        if self.classes is not None:
            chosen = torch.tensor(self.classes)
            order = torch.full((max(int(labels.max()), int(chosen.max())) + 1,), -1)
            order[chosen] = torch.arange(len(chosen))
            labels = order[labels]
            seen = labels >= 0
            images, labels = images[seen], labels[seen]
            if not len(labels):
                raise ValueError(
                    f"the {name} fold has no image of data.classes={list(self.classes)}; give "
                    f"more classes"
                )
        if self.rotation:
            images = images.rot90(self.rotation // 90, (2, 3)).contiguous()
        return images, labels


WHOLE = ImageView()


def image_splits(
    learning: Labelled,
    test: Labelled,
    *,
    validation: int,
    classes: Sequence[str],
    source: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: float = 255.0,
    augment: Augment | None = None,
    view: ImageView = WHOLE,
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
        view: Which classes of them, and which way up.

    Raises:
        ValueError: validation leaves nothing to learn from; a label has no name; a view of classes
            that there are not.
    """
    images, labels = learning
    for fold in (labels, test[1]):
        if int(fold.min()) < 0 or int(fold.max()) >= len(classes):
            raise ValueError(
                f"labels must lie in [0, {len(classes) - 1}], got {int(fold.min())} to"
                f" {int(fold.max())}; the files are damaged, fetch them again"
            )
    names = view.names(classes)
    rest, chosen = split_off(labels, validation)
    whole = {
        "train": (images[rest], labels[rest]),
        "validation": (images[chosen], labels[chosen]),
        "test": test,
    }
    arrays = {name: view.fold(name, *pair) for name, pair in whole.items()}
    normalize = Normalize(mean, std, scale)
    folds: dict[str, Any] = {
        name: ArrayFold(*pair, transform=normalize, augment=augment if name == "train" else None)
        for name, pair in arrays.items()
    }
    about = {
        "source": source,
        "classes": names,
        "sizes": {name: len(fold) for name, fold in folds.items()},
        "sha256": {name: fingerprint(*pair) for name, pair in arrays.items()},
    }
    shape = tuple(arrays["train"][0].shape[1:])
    return Splits("image", shape, len(names), **folds, about=about, mean=mean, std=std)
