"""The digits as another data set keeps them: another order of classes, mean and deviation."""

import dataclasses
from collections.abc import Iterator

import pytest
from archzoo.train.data import ArrayFold, Splits, data_sets
from archzoo.train.data.augment import Normalize

__all__ = ["turned_digits"]

MEAN, STD = (0.5,), (0.25,)


@pytest.fixture
def turned_digits(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a data set of the same test images, under which `9` is class 0 and `0` class 9.

    Pixels have another mean and a smaller deviation than the digits.
    """
    monkeypatch.setattr(data_sets, "_entries", {**data_sets._entries})

    @data_sets.register(kind="image", source="the digits", shape=(1, 8, 8), num_classes=10)
    def turned() -> Splits:
        """The digits, counted from behind."""
        digits = data_sets.build("digits", augment=False)
        test: ArrayFold = digits.test  # pyright: ignore[reportAssignmentType]
        fold = ArrayFold(test.inputs, 9 - test.targets, transform=Normalize(MEAN, STD, 16.0))
        about = {**digits.about, "classes": [str(digit) for digit in reversed(range(10))]}
        return dataclasses.replace(digits, test=fold, mean=MEAN, std=STD, about=about)

    yield "turned"
