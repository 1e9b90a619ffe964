"""Which samples form which batch, and the loader that fetches them."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from .counter_random import counter_key
from .data_set import Fold, Key, Splits

__all__ = ["Batches", "check_folds", "check_shares", "loader", "needs_shuffling"]


class Batches:
    """One epoch's batches of `(round, index)` keys, as one rank sees them.

    The global batch is cut among the ranks, so that what is learnt from a step does not depend
    on how many there are. The order is a function of seed and epoch alone.

    To evaluate (`drop_last=False`), the fold is cut into as few batches as possible, equal to
    within one sample: every sample comes once, and no rank is ever left without a batch.

    Args:
        size: Samples in the fold.
        batch_size: Samples in a batch over all ranks; at most that many with drop_last=False.
        seed: Seed of the run.
        epoch: Epoch, from 0.
        shuffle: Whether to permute the samples.
        drop_last: Whether to leave out what does not fill a batch.
        rank: This process.
        world: Processes.
        start: Batches of this epoch to skip, without fetching them.

    Raises:
        ValueError: no full batch, a batch that the ranks cannot share, or start past the end.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        """Plan the cuts; the permutation is drawn when iteration begins."""
        if batch_size < 1:
            raise ValueError(f"trainer.batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in [0, {world}), got {rank}")
        if drop_last and size < batch_size:
            raise ValueError(
                f"trainer.batch_size={batch_size} exceeds the fold's {size} samples;"
                f" give at most {size}"
            )
        if drop_last:
            check_shares(batch_size, world)
        self.total = size // batch_size if drop_last else -(-size // batch_size)
        if size // max(self.total, 1) < world:
            raise ValueError(
                f"{size} samples in batches of {batch_size} leave some of {world} processes"
                " without data; give a larger trainer.batch_size or fewer processes"
            )
        if not 0 <= start <= self.total:
            raise ValueError(f"start must lie in [0, {self.total}], got {start}")
        used = self.total * batch_size if drop_last else size
        self._cuts = [used * i // self.total for i in range(self.total + 1)]
        self.size = size
        self.seed = seed
        self.epoch = epoch
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.start = start

    def __len__(self) -> int:
        """Count the batches that are left after `start`; `total` counts all of the epoch."""
        return self.total - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield this rank's share of one batch after another."""
        key = counter_key(self.seed, self.epoch)
        if self.shuffle:
            generator = torch.Generator().manual_seed(key)
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = range(self.size)
        for i in range(self.start, self.total):
            batch = order[self._cuts[i] : self._cuts[i + 1]]
            yield [(key, index) for index in batch[self.rank :: self.world]]


def needs_shuffling(fold: Fold) -> bool:
    """Whether the order of a training epoch is to be drawn for a fold, which does not itself."""
    return not getattr(fold, "orders_itself", False)


def check_shares(batch_size: int, world: int) -> None:
    """Refuse a batch that its processes cannot share equally.

    Raises:
        ValueError: naming both numbers.
    """
    if batch_size % world:
        raise ValueError(
            f"trainer.batch_size={batch_size} cannot be shared by {world} processes equally; "
            f"give a multiple of {world}"
        )


def check_folds(splits: Splits, batch_size: int, accumulate: int, world: int) -> None:
    """Refuse folds that cannot be cut into batches, or leave a process without a sample.

    Args:
        splits: The folds.
        batch_size: As in `Batches`.
        accumulate: Batches of a training step.
        world: Processes.

    Raises:
        ValueError: naming the first such fold, or an epoch of less than a step.
    """
    for name in ("train", "validation", "test"):
        try:
            Batches(len(getattr(splits, name)), batch_size, drop_last=name == "train", world=world)
        except ValueError as error:
            raise ValueError(f"the {name} fold: {error}") from error
    batches = len(splits.train) // batch_size
    if batches < accumulate:
        raise ValueError(
            f"trainer.accumulate={accumulate} exceeds the {batches} batches of an epoch"
        )


def _identity(batch: Any) -> Any:
    return batch


def _leave_the_group(_worker: int) -> None:
    """Keep a signal to the trainer's whole process group from its workers: the trainer decides."""
    os.setpgid(0, 0)


def loader(
    fold: Fold, batches: Batches, *, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Any]:
    """Fetch the batches of a fold, in this process or in others.

    Args:
        fold: What to fetch from.
        batches: What to fetch.
        workers: Worker processes; the samples are the same for any number.
        pin_memory: Whether to copy batches to page-locked memory, for CUDA.
    """
    return DataLoader(
        fold,  # type: ignore[arg-type]  # DataLoader calls __getitems__, which Dataset lacks
        batch_sampler=batches,
        collate_fn=_identity,  # a fold returns whole batches
        num_workers=workers,
        worker_init_fn=_leave_the_group,
        pin_memory=pin_memory,
        # Its own generator: DataLoader draws a seed for its workers even without any.
        generator=torch.Generator().manual_seed(0),
    )
