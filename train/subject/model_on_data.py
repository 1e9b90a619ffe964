"""A model on data: samples as the model reads them, their pixels, and classes in its order."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import IGNORE, Batches, Fold, Splits, loader, needs_shuffling
from ..errors import RunError
from ..measures.corruptions import corrupt
from ..measures.pixels import FromPixels, pixel_batches
from .conventions import conventions_of
from .given_model import ModelPlace

__all__ = ["SPLITS", "ModelOnData"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ModelOnData:
    """A model and data that it can be measured on.

    Args:
        place: Where the model is.
        name: Registered name of the model.
        model: In eval mode.
        data: Name of the data set.
        splits: Its folds.
        own: Whether the model was trained on that data set, by its run or its card.
        classes: Names of the model's classes, where they are known.
        order: For each class of the data its number in the model; None where they are the same.
    """

    place: ModelPlace
    name: str
    model: nn.Module
    data: str
    splits: Splits
    own: bool
    classes: list[str] | None
    order: Tensor | None

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean of the pixels that the model was trained with, else that of the data."""
        return self._statistics()[0]

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation of the pixels, likewise; None where nothing was normalised."""
        return self._statistics()[1]

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
        if not self._as_given():
            normalize = self.from_pixels().normalize
            for x, targets in self.pixels(split, batch_size=batch_size):
                yield normalize(x), targets
            return
        fold = self.fold(split)
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
        fold = self.fold("train")
        size = min(batch_size, len(fold))
        count = max(1, min(samples, len(fold)) // size)
        if not self._as_given():
            normalize = self.from_pixels().normalize
            how = {"samples": count * size, "batch_size": size, "seed": seed}
            for x, targets in self.pixels("train", **how):
                yield normalize(x), targets
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
        normalize, first = self.from_pixels().normalize, 0
        for x, targets in self.pixels(split, batch_size=batch_size):
            x = corrupt(x, corruption, severity, seed=seed, first=first)
            first += len(x)
            yield normalize(x), targets

    def pixels(self, split: str, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a fold's pixels in [0, 1], with targets in the order of the model's classes.

        Args:
            split: The fold, of images or of rows, which come as they are.
            options: Keywords of `pixel_batches`.
        """
        mean, std = self.splits.mean, self.splits.std
        for x, targets in pixel_batches(self.fold(split), mean, std, **options):
            yield x, self._in_order(targets)

    def inputs(
        self, split: str, *, samples: int | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return samples of a fold in float64, as the model reads them, and their targets.

        Args:
            split: The fold, of images or of rows.
            samples: How many, drawn without replacement; None or too many is all.
            seed: Of that draw.
        """
        how: dict[str, Any] = {"samples": samples, "seed": seed, "dtype": torch.float64}
        if self._as_given():  # no way through pixels, which would round
            given = pixel_batches(self.fold(split), None, None, **how)
            pairs = [(x, self._in_order(targets)) for x, targets in given]
        else:
            normalize = self.from_pixels().normalize
            pairs = [(normalize(x), targets) for x, targets in self.pixels(split, **how)]
        inputs, targets = zip(*pairs, strict=True)
        return torch.cat(inputs), torch.cat(targets)

    def from_pixels(self) -> FromPixels:
        """The model behind the normalisation that it was trained with."""
        return FromPixels(self.model, self.mean, self.std)

    def reported(self, split: str) -> float | None:
        """The accuracy that the run itself, or the card of the weights, reported of a fold.

        Raises:
            RunError: what the run reported is damaged, or of another run.
        """
        place = self.place
        if place.card is not None and self.own and split == "test":
            return place.card.metrics.get("accuracy")
        if place.run is None or not self.own or split == "train":
            return None
        result = place.run.read_result(place.config)
        return None if result is None else result[split].get("accuracy")

    def _as_given(self) -> bool:
        """Whether the data normalise as the model was trained."""
        return self._statistics() == (self.splits.mean, self.splits.std)

    def _statistics(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        own = conventions_of(self.model)
        if self.splits.kind != "image" or "mean" not in own or "std" not in own:
            return self.splits.mean, self.splits.std
        return tuple(own["mean"]), tuple(own["std"])

    def _in_order(self, targets: Tensor) -> Tensor:
        if self.order is None:
            return targets
        order = self.order.to(targets.device)
        return torch.where(targets == IGNORE, targets, order[targets.clamp(min=0)])
