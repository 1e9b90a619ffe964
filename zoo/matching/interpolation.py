"""The straight way from one network to another, and the barrier on it.

    L(t) at (1 − t) a + t b
    B = max over t of L(t) − ((1 − t) L(0) + t L(1)),     and of the accuracy, downwards

At every point batch norms are given the statistics of the network that is there, since those of a
and b belong to other activations; so are they at the ends, or a network would be apart from itself.

Sources: Frankle et al. 2020, "Linear mode connectivity and the lottery ticket hypothesis",
arXiv:1912.05671, §2; batch norms: Jordan et al. 2023, "REPAIR", arXiv:2211.08403.
Differs from them: B is of the loss and of the accuracy, each at the worst of the points. REPAIR
also rescales layers without norms; here statistics of norms are all that is taken anew, and they
are at the ends too.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.lowrank import reestimate_batch_norm
from ...layers.modes import evaluating
from .architecture import check_one_architecture, tensors_of

__all__ = ["Barrier", "barrier", "interpolate"]

IGNORE = -100  # a target without a loss, as in `torch.nn.functional.cross_entropy`


class Barrier(NamedTuple):
    """Losses and accuracies on the way from one network to another.

    Attributes:
        t: Shares of the second network, from 0 to 1.
        loss: Mean cross-entropy at each, in nats; batch norms have new statistics.
        accuracy: Share of correct predictions at each.
        own_loss: Of the two networks as they are, with statistics of their own.
        own_accuracy: The same.
    """

    t: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    own_loss: tuple[float, float]
    own_accuracy: tuple[float, float]

    @property
    def of_loss(self) -> float:
        """How far the loss rises above the line between its ends, at least 0."""
        return max(0.0, *self._over(self.loss))

    @property
    def of_accuracy(self) -> float:
        """How far the accuracy falls below the line between its ends, at least 0."""
        return max(0.0, *(-each for each in self._over(self.accuracy)))

    def _over(self, values: Sequence[float]) -> list[float]:
        first, last = values[0], values[-1]
        # The ends lie on the line, whatever rounding says.
        return [
            value - ((1 - t) * first + t * last)
            for t, value in zip(self.t[1:-1], values[1:-1], strict=True)
        ]


def interpolate(a: nn.Module, b: nn.Module, t: float) -> nn.Module:
    """Return a new network with (1 − t) a + t b for every parameter and running statistic.

    At t = 0 and t = 1 it has the numbers of a and of b. Buffers of whole numbers are a's.

    Args:
        a: A network.
        b: Another of the same architecture.
        t: The share of b, in [0, 1].

    Raises:
        ValueError: t out of range, or networks of two architectures.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t}")
    check_one_architecture(a, b)
    found = copy.deepcopy(a)
    other = dict(tensors_of(b))
    with torch.no_grad():
        for name, tensor in tensors_of(found):
            if t == 1:
                tensor.copy_(other[name])
            elif t > 0 and tensor.is_floating_point():
                tensor.lerp_(other[name].to(tensor), t)
    return found


def barrier(
    a: nn.Module,
    b: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    statistics: Iterable[Any] = (),
    points: int = 25,
) -> Barrier:
    """Measure the loss and the accuracy on the straight way from a to b.

    Args:
        a: A classifier, (B, …) -> (B, K) or (B, T, K).
        b: Another of the same architecture, matched to a or not.
        batches: Inputs and targets to measure on; kept in memory while points are measured.
        statistics: Batches of the training data, for networks with batch norms.
        points: How many, both ends among them, at least 3.

    Raises:
        ValueError: fewer points, nothing to measure on, batch norms and no statistics, a loss that
            is not finite, or as `interpolate`.
    """
    if points < 3:
        raise ValueError(f"points must be at least 3, both ends and one between, got {points}")
    measured, renewed = list(batches), list(statistics)
    if not any((targets != IGNORE).any() for _, targets in measured):
        raise ValueError("batches have no target, so there is nothing to measure on; give some")
    shares = tuple(i / (points - 1) for i in range(points))
    found, own = [], []
    for t in shares:
        model = interpolate(a, b, t)
        figures = _figures(model, measured, t) if t in (0, 1) else None
        own += [] if figures is None else [figures]
        if _renew(model, renewed) or figures is None:
            figures = _figures(model, measured, t)
        found.append(figures)
    losses, accuracies = zip(*found, strict=True)
    (loss_a, accuracy_a), (loss_b, accuracy_b) = own
    return Barrier(shares, losses, accuracies, (loss_a, loss_b), (accuracy_a, accuracy_b))


def _renew(model: nn.Module, statistics: Sequence[Any]) -> bool:
    """Take statistics of batch norms anew and say whether there are any."""
    try:
        return bool(reestimate_batch_norm(model, statistics))
    except ValueError as error:
        raise ValueError(f"batch norms take their statistics from statistics=: {error}") from error


@torch.no_grad()
def _figures(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], t: float
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy, summed in float64."""
    loss, right, count = 0.0, 0, 0
    with evaluating(model):
        for inputs, targets in batches:
            logits = model(inputs).double().flatten(0, -2)
            wanted = targets.flatten()
            loss += float(F.cross_entropy(logits, wanted, reduction="sum", ignore_index=IGNORE))
            right += int((logits.argmax(-1) == wanted).sum())
            count += int((wanted != IGNORE).sum())
    if not math.isfinite(loss):
        raise ValueError(f"the loss at t={t:g} is {loss}, so that there is no barrier to tell")
    return loss / count, right / count
