"""The loss on batches of the validation fold, for a method that learns from what no step trains."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..data import Batches, needs_shuffling
from ..engine.metrics import loss_for
from .hooks import TrainingRun

__all__ = ["held_out_loss"]


def held_out_loss(run: TrainingRun, seed: int) -> Callable[[int], Tensor]:
    """Return (number) -> the loss of the run's model on that batch of the validation fold.

    The fold is read in a new order again and again; which samples a batch holds follows from the
    seed and its number, so a resumed run reads what it would have read. Of several processes each
    reads its share of a batch.

    Args:
        run: With the model, its precision and the folds.
        seed: Of the orders.
    """
    fold, world = run.splits.validation, run.world
    measure = loss_for(run.model)

    def batches(epoch: int, start: int = 0) -> Batches:
        return Batches(
            len(fold),
            run.config.batch_size,
            seed=seed,
            epoch=epoch,
            shuffle=needs_shuffling(fold),
            rank=world.rank,
            world=world.size,
            start=start,
        )

    def loss(number: int) -> Tensor:
        epoch, place = divmod(number, len(batches(0)))
        found = fold.__getitems__(next(iter(batches(epoch, place))))
        inputs, targets = (part.to(world.device) for part in found)
        with run.autocast():
            logits = run.model(inputs)
        return measure(logits, targets)

    return loss
