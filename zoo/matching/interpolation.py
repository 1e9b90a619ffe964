"""The straight way from one network to another, and the barrier on it.

    L(t) at (1 − t) a + t b
    B = max over t of L(t) − ((1 − t) L(0) + t L(1)),     and of the accuracy, downwards

Between the ends batch norms are given the statistics of the network that is there, since those of a
and b belong to other activations; at the ends each network is as it was.

Sources: Frankle et al. 2020, "Linear mode connectivity and the lottery ticket hypothesis",
arXiv:1912.05671, §2; batch norms: Jordan et al. 2023, "REPAIR", arXiv:2211.08403.
Differs from them: B is of the loss and of the accuracy, each at the worst of the points. REPAIR
also rescales layers without norms; here statistics of norms are all that is taken anew.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.lowrank import reestimate_batch_norm
from ...layers.modes import evaluating

__all__ = ["Barrier", "barrier", "interpolate"]

IGNORE = -100  # a target without a loss, as in `torch.nn.functional.cross_entropy`


class Barrier(NamedTuple):
    """Losses and accuracies on the way from one network to another.

    Attributes:
        t: Shares of the second network, from 0 to 1.
        loss: Mean cross-entropy at each, in nats.
        accuracy: Share of correct predictions at each.
    """

    t: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def of_loss(self) -> float:
        """How far the loss rises above the line between its ends, at least 0."""
        return max(self._over(self.loss))

    @property
    def of_accuracy(self) -> float:
        """How far the accuracy falls below the line between its ends, at least 0."""
        return max(-each for each in self._over(self.accuracy))

    def _over(self, values: Sequence[float]) -> list[float]:
        first, last = values[0], values[-1]
        # The ends lie on the line, whatever rounding says.
        inner = [
            value - ((1 - t) * first + t * last)
            for t, value in zip(self.t[1:-1], values[1:-1], strict=True)
        ]
        return [0.0, *inner]


def interpolate(a: nn.Module, b: nn.Module, t: float) -> nn.Module:
    """Return a new network with (1 − t) a + t b for every parameter and running statistic.

    At t = 0 and t = 1 it has the numbers of a and of b. Buffers of whole numbers are a's.

    Args:
        a: A network.
        b: Another with tensors of the same names and shapes.
        t: The share of b, in [0, 1].

    Raises:
        ValueError: t out of range, or networks with other tensors.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t}")
    found = copy.deepcopy(a)
    other = dict(_tensors(b))
    mine = dict(_tensors(found))
    differing = [
        name
        for name in mine.keys() | other.keys()
        if name not in mine or name not in other or mine[name].shape != other[name].shape
    ]
    if differing:
        raise ValueError(
            f"a and b must have the same tensors, and differ in {min(differing)}; interpolate two "
            f"networks of one architecture"
        )
    with torch.no_grad():
        for name, tensor in mine.items():
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
        statistics: Batches of the training data for networks with batch norms.
        points: How many, both ends among them, at least 3.

    Raises:
        ValueError: fewer points, no batches, batch norms and no statistics, or as `interpolate`.
    """
    if points < 3:
        raise ValueError(f"points must be at least 3, both ends and one between, got {points}")
    measured, renewed = list(batches), list(statistics)
    if not measured:
        raise ValueError("batches is empty: there is nothing to measure on")
    shares = tuple(i / (points - 1) for i in range(points))
    found = []
    for t in shares:
        model = interpolate(a, b, t)
        if 0 < t < 1:
            reestimate_batch_norm(model, renewed)
        found.append(_figures(model, measured))
    losses, accuracies = zip(*found, strict=True)
    return Barrier(shares, losses, accuracies)


@torch.no_grad()
def _figures(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy, summed in float64."""
    loss, right, count = 0.0, 0, 0
    with evaluating(model):
        for inputs, targets in batches:
            logits = model(inputs).double().flatten(0, -2)
            wanted = targets.flatten()
            loss += float(F.cross_entropy(logits, wanted, reduction="sum", ignore_index=IGNORE))
            right += int((logits.argmax(-1) == wanted).sum())
            count += int((wanted != IGNORE).sum())
    return loss / max(1, count), right / max(1, count)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
