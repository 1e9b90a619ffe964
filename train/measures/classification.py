"""How good class probabilities are: accuracy, likelihood, calibration, and which are mixed up.

With p = softmax(logits), y the true class and ŷ the most probable one:

    accuracy                   mean of [ŷ = y]
    top-k accuracy             mean of [fewer than k classes are more probable than y]
    negative log-likelihood    mean of −log p_y, in nats; divided by ln 2 in bits
    Brier score                mean of Σ_k (p_k − [k = y])², in [0, 2]
    calibration error (ECE)    Σ_b n_b/N · |accuracy_b − confidence_b| over bins b of equal width of
                               the confidence p_ŷ

Sources: Brier 1950, Monthly Weather Review 78; Guo et al. 2017, arXiv:1706.04599 (ECE, 15 bins).
Differs from torchmetrics: a confidence of exactly 1 lies in the last bin, not in one of its own.
"""

# Shape letters: N samples or tokens, K classes.

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data import IGNORE

__all__ = [
    "Outcomes",
    "accuracy",
    "all_outcomes",
    "brier_score",
    "calibration_error",
    "class_accuracies",
    "confusion_matrix",
    "negative_log_likelihood",
    "outcomes",
    "summary",
    "top_accuracy",
]


class Outcomes(NamedTuple):
    """What a classifier made of each sample: all tensors (N,), integers or float64, on the CPU.

    `surprise` is −log p_y, `confidence` the largest probability, `squares` the sample's term of the
    Brier score, and `rank` the number of classes before y in the order of falling probability, of
    equal ones the smaller index first.
    """

    target: Tensor
    predicted: Tensor
    surprise: Tensor
    confidence: Tensor
    squares: Tensor
    rank: Tensor


def outcomes(logits: Tensor, targets: Tensor) -> Outcomes:
    """Return what a batch of logits says of its targets; those that are `IGNORE` are left out.

    Args:
        logits: (N, K) or, for tokens, (N, T, K).
        targets: Classes (N,) or (N, T).

    Raises:
        ValueError: shapes that do not belong together, logits that are not finite, or a target that
            is no class.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets must have the shape of the logits but for the classes, "
            f"{tuple(logits.shape[:-1])}, got {tuple(targets.shape)}"
        )
    counted = targets != IGNORE
    z, y = logits[counted].double().cpu(), targets[counted].cpu()
    if not bool(z.isfinite().all()):
        raise ValueError(
            f"the logits hold {int((~z.isfinite()).sum())} numbers that are not finite; the model "
            f"has diverged, or needs a wider number format"
        )
    classes = z.shape[-1]
    if len(y) and (classes == 0 or int(y.min()) < 0 or int(y.max()) >= classes):
        raise ValueError(
            f"targets must lie in [0, {classes - 1}], got {int(y.min())} to {int(y.max())}"
        )
    if not len(y):
        whole, real = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        return Outcomes(whole, whole, real, real, real, whole)
    logs = z.log_softmax(1)
    p, own = logs.exp(), z.gather(1, y[:, None])
    earlier = torch.arange(classes) < y[:, None]
    chosen = p.gather(1, y[:, None]).squeeze(1)
    return Outcomes(
        target=y,
        predicted=z.argmax(1),
        surprise=-logs.gather(1, y[:, None]).squeeze(1),
        confidence=p.amax(1),
        squares=p.square().sum(1) - 2 * chosen + 1,
        rank=((z > own) | ((z == own) & earlier)).sum(1),
    )


def all_outcomes(batches: Iterable[tuple[Tensor, Tensor]]) -> Outcomes:
    """Join the outcomes of batches of logits and targets.

    Raises:
        ValueError: no counted target, or as `outcomes`.
    """
    parts = [outcomes(logits, targets) for logits, targets in batches]
    if not sum(len(part.target) for part in parts):
        raise ValueError("there is no sample to measure on")
    return Outcomes(*map(torch.cat, zip(*parts, strict=True)))


def accuracy(found: Outcomes) -> float:
    """Return the share of samples whose most probable class is the true one."""
    return float((found.predicted == found.target).double().mean())


def top_accuracy(found: Outcomes, k: int) -> float:
    """Return the share of samples whose true class is among the k most probable.

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return float((found.rank < k).double().mean())


def negative_log_likelihood(found: Outcomes) -> float:
    """Return the mean of −log p_y, in nats."""
    return float(found.surprise.mean())


def brier_score(found: Outcomes) -> float:
    """Return the mean squared distance of the probabilities from the truth, in [0, 2]."""
    return float(found.squares.mean())


def calibration_error(found: Outcomes, bins: int = 15) -> float:
    """Return the expected calibration error of the most probable class, in [0, 1].

    Args:
        found: The outcomes.
        bins: Of equal width, [0, 1/bins), …, [1 − 1/bins, 1].

    Raises:
        ValueError: bins < 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    place = (found.confidence * bins).long().clamp(max=bins - 1)
    right = (found.predicted == found.target).double()
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right - found.confidence)
    return float(gaps.abs().sum() / len(place))


def confusion_matrix(found: Outcomes, classes: int) -> Tensor:
    """Count samples by true class (rows) and predicted class (columns).

    Shape:
        N outcomes -> (K, K) in int64.
    """
    cells = found.target * classes + found.predicted
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


def class_accuracies(confusion: Tensor) -> list[float | None]:
    """Return the accuracy on the samples of each class; None for a class without any."""
    counts = confusion.sum(1).tolist()
    right = confusion.diagonal().tolist()
    return [hit / count if count else None for hit, count in zip(right, counts, strict=True)]


def summary(found: Outcomes, classes: int, *, tokens: bool = False) -> dict[str, Any]:
    """Return all figures of some outcomes by name.

    Args:
        found: Of at least one sample.
        classes: K, which decides whether `top5` means anything.
        tokens: Whether the classes are those of a vocabulary; then `bits` is there, −log₂ p_y.
    """
    figures: dict[str, Any] = {"samples": len(found.target), "accuracy": accuracy(found)}
    if classes > 5:
        figures["top5"] = top_accuracy(found, 5)
    figures["nll"] = negative_log_likelihood(found)
    if tokens:
        figures["bits"] = figures["nll"] / math.log(2)
    return figures | {"ece": calibration_error(found), "brier": brier_score(found)}
