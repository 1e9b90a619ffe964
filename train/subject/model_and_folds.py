"""A model beside data that it can be measured on: every fold as the model reads it."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..data import Batches, Fold, Splits, loader, needs_shuffling
from ..engine.metrics import IGNORE
from ..errors import RunError
from ..measures.corruptions import corrupt
from ..measures.pixels import FromPixels, pixel_batches

__all__ = ["SPLITS", "ModelOnData", "conventions_of"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ModelOnData:
    """A model and data that it can be measured on.

    Args:
        name: Registered name of the model.
        model: In eval mode.
        data: Name of the data set.
        splits: Its folds.
        own: Whether the model's run was trained on that data set.
        classes: Names of the model's classes, where they are known.
        order: For each class of the data its number in the model; None where they are the same.
    """

    name: str
    model: nn.Module
    data: str
    splits: Splits
    own: bool
    classes: list[str] | None
    order: Tensor | None

    def fold(self, split: str) -> Fold:
        """Return a fold by its name.

        Raises:
            RunError: no such fold, or one without samples.
        """
        if split not in SPLITS:
            raise RunError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        fold: Fold = getattr(self.splits, split)
        if not len(fold):
            raise RunError(f"the {split} fold of {self.data} holds no sample; take another split")
        return fold

    def batches(self, split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a fold as the model reads it, with targets in the order of the model's classes."""
        fold, statistics = self.fold(split), self._statistics()
        if statistics != (self.splits.mean, self.splits.std):
            yield from self._from_pixels(fold, batch_size)
            return
        for inputs, targets in loader(fold, Batches(len(fold), batch_size)):
            yield inputs, self._in_order(targets)

    def drawn(
        self, samples: int, batch_size: int, seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield whole batches of the training fold that a seed draws, augmented as in training.

        Args:
            samples: How many at most; at least one batch is yielded.
            batch_size: Samples in a batch, or all that the fold has.
            seed: Of the order.

        Raises:
            RunError: a fold without samples.
        """
        fold, statistics = self.fold("train"), self._statistics()
        size = min(batch_size, len(fold))
        count = max(1, min(samples, len(fold)) // size)
        if statistics != (self.splits.mean, self.splits.std):
            yield from self._from_pixels(fold, size, seed=seed, samples=count * size)
            return
        shuffle = needs_shuffling(fold)
        cut = Batches(len(fold), size, seed=seed, shuffle=shuffle, drop_last=True)
        for inputs, targets in itertools.islice(iter(loader(fold, cut)), count):
            yield inputs, self._in_order(targets)

    def sample(self, split: str, size: int) -> Tensor:
        """Return first inputs of a fold as the model reads them, again where there are too few.

        Raises:
            RunError: no such fold, or one without samples.
        """
        inputs, _ = next(self.batches(split, size))
        return inputs[torch.arange(size) % len(inputs)]

    def corrupted(
        self, split: str, batch_size: int, corruption: str, severity: int, seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the same with a corruption of the pixels.

        Raises:
            RunError: the data are no images.
        """
        if self.splits.kind != "image" or self.splits.mean is None:
            raise RunError(
                f"corruptions are of images, but {self.data} gives {self.splits.kind}; leave "
                f"corruptions out"
            )
        found = (corruption, severity)
        yield from self._from_pixels(self.fold(split), batch_size, found, seed=seed)

    def _from_pixels(
        self,
        fold: Fold,
        batch_size: int,
        corruption: tuple[str, int] | None = None,
        *,
        seed: int = 0,
        samples: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        normalize, first = FromPixels(self.model, *self._statistics()).normalize, 0
        mean, std = self.splits.mean, self.splits.std
        how: dict[str, Any] = {"samples": samples, "batch_size": batch_size, "seed": seed}
        for x, targets in pixel_batches(fold, mean, std, **how):
            if corruption is not None:
                x = corrupt(x, *corruption, seed=seed, first=first)
            first += len(x)
            yield normalize(x), self._in_order(targets)

    def _statistics(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Mean and standard deviation that the model was trained with, else those of the data."""
        own = conventions_of(self.model)
        if self.splits.kind != "image" or "mean" not in own or "std" not in own:
            return self.splits.mean, self.splits.std
        return tuple(own["mean"]), tuple(own["std"])

    def _in_order(self, targets: Tensor) -> Tensor:
        if self.order is None:
            return targets
        return torch.where(targets == IGNORE, targets, self.order[targets.clamp(min=0)])


def conventions_of(model: nn.Module) -> dict[str, Any]:
    """What a model keeps of the data that it was trained on."""
    return cast("dict[str, Any]", getattr(model, "conventions", {}))
