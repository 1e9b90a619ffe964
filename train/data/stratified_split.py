"""Fixed stratified partitions: the same rows in every run, on every machine.

Rows are put in order of class and, within a class, of a hash of their number; taking evenly
spaced places of that order gives every class its share to within one row. Nothing depends on
the run's seed or on a library's generator, so a partition outlives their versions.
"""

import torch
from torch import Tensor

from .counter_random import counter_hash

__all__ = ["held_out", "split_off"]

# Told apart so that the rows of a validation fold are no function of the test fold's places.
_VALIDATION, _TEST = 0, 1


def _order(targets: Tensor, purpose: int) -> Tensor:
    numbers = torch.arange(len(targets))
    hashed = torch.argsort(counter_hash(torch.tensor([purpose]), numbers))
    return hashed[torch.argsort(targets[hashed], stable=True)]


def _without(size: int, chosen: Tensor) -> Tensor:
    rest = torch.ones(size, dtype=torch.bool)
    rest[chosen] = False
    return rest.nonzero()[:, 0]


def split_off(targets: Tensor, size: int, *, name: str = "validation") -> tuple[Tensor, Tensor]:
    """Choose `size` rows, every class in proportion to within one row.

    Args:
        targets: Class of each row, int64, shape (N,).
        size: Rows to choose, in [1, N - 1].
        name: What the size is called in the message.

    Returns:
        Numbers of the rows that are left and of the rows chosen, both ascending.

    Raises:
        ValueError: size outside [1, N - 1].
    """
    total = len(targets)
    if not 1 <= size < total:
        raise ValueError(f"{name} must lie in [1, {total - 1}], got {size}")
    places = (2 * torch.arange(size) + 1) * total // (2 * size)
    chosen = _order(targets, _VALIDATION)[places].sort().values
    return _without(total, chosen), chosen


def held_out(targets: Tensor, split: int, *, splits: int = 5) -> tuple[Tensor, Tensor]:
    """Choose one of several disjoint test folds that together hold every row once.

    Sizes differ by at most one row, and so do a class's members; a class with fewer members
    than there are folds is absent from some of them.

    Args:
        targets: Class of each row, int64, shape (N,).
        split: Which fold, in [0, splits).
        splits: Number of folds, at least 2.

    Returns:
        Numbers of the rows that are left and of the test fold, both ascending.

    Raises:
        ValueError: split outside [0, splits), or fewer rows than folds.
    """
    if not 0 <= split < splits:
        raise ValueError(f"split must lie in [0, {splits - 1}], got {split}")
    if len(targets) < splits:
        raise ValueError(f"{splits} test folds need as many rows, got {len(targets)}")
    chosen = _order(targets, _TEST)[split::splits].sort().values
    return _without(len(targets), chosen), chosen
