"""Evaluate a model on a fold: loss, accuracy, bits per byte of text, and figures of links."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.modes import evaluating
from ..data import IGNORE
from .graph_metrics import GraphMetrics

__all__ = [
    "better",
    "candidate_entropy",
    "cross_entropy",
    "evaluate",
    "headline",
    "loss_for",
    "predictions",
]


def headline(metrics: Mapping[str, float]) -> str:
    """The metric that chooses the best checkpoint: `bits_per_byte` for tokens, else `accuracy`."""
    return "bits_per_byte" if "bits_per_byte" in metrics else "accuracy"


def better(metrics: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Whether an evaluation beats the best so far: by accuracy or bits per byte, then by loss.

    A small fold has few different accuracies; among equal ones the earliest is seldom the best.
    """

    def rank(metrics: Mapping[str, float]) -> tuple[float, float]:
        name = headline(metrics)
        return -metrics[name] if name == "bits_per_byte" else metrics[name], -metrics["loss"]

    return not best or rank(metrics) > rank(best)


def cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy in nats of logits (B, …, C) against class indices (B, …) or shares (B, C).

    It is computed in float32, or in float64 where the logits are.
    """
    if targets.dim() < logits.dim():
        logits, targets = logits.flatten(0, -2), targets.flatten()
    return F.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)),
        targets,
        label_smoothing=label_smoothing,
        ignore_index=IGNORE,
        reduction=reduction,
    )


def candidate_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Binary cross-entropy in nats of log-odds (B, K) against the true candidate (B,).

    The true candidate weighs as much as the mean of the others: with no odds the loss is ln 2.
    """
    true = torch.arange(logits.shape[-1], device=targets.device) == targets[:, None]
    aims = true * (1 - label_smoothing) + label_smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits.float(), aims.float(), reduction="none")
    shares = torch.where(true, 0.5, 0.5 / max(1, logits.shape[-1] - 1))
    losses = (each * shares).sum(-1)
    return losses.sum() if reduction == "sum" else losses.mean()


def loss_for(model: nn.Module) -> Callable[..., Tensor]:
    """The loss of a model's logits: of one choice among all, or of each candidate for itself."""
    return candidate_entropy if getattr(model, "logits_are_odds", False) else cross_entropy


@torch.no_grad()
def predictions(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits of every batch beside its targets, from the model in eval mode.

    Args:
        model: Put into eval mode until the last batch; every module gets its own mode back.
        batches: Inputs and targets.
        device: Where the model is.
        autocast: Makes the precision context of a forward pass.
    """
    with evaluating(model):
        for inputs, targets in batches:
            inputs, targets = inputs.to(device), targets.to(device)
            with autocast():
                logits = model(inputs)
            yield logits, targets


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    kind: str,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, float]:
    """Return the means over every counted target, on all processes together.

    Args:
        model: Put into eval mode; every module gets its own mode back.
        batches: Inputs and integer targets; `IGNORE` is not counted.
        kind: Of the data; tokens give bits per byte, loss / ln 2.
        device: Where the model is.
        autocast: Makes the precision context of a forward pass.

    Returns:
        `loss` in nats, `accuracy` in [0, 1], for tokens `bits_per_byte`, and for nodes and graphs
        what `GraphMetrics` computes.
    """
    from torchmetrics import MeanMetric  # seconds to import

    # Sums in float64: the mean of a large fold must not depend on the batch size. The dtype comes
    # last, since moving a metric to a device would round what it is given to float32 again.
    loss = MeanMetric(sync_on_compute=True).to(device).set_dtype(torch.float64)
    accuracy = MeanMetric(sync_on_compute=True).to(device).set_dtype(torch.float64)
    measure, figures = loss_for(model), GraphMetrics(kind, device)
    for logits, targets in predictions(model, batches, device, autocast):
        figures.update(logits, targets)
        counted = int((targets != IGNORE).sum())
        if not counted:  # nothing here has a mean
            continue
        summed = measure(logits, targets, reduction="sum")
        right = (logits.argmax(-1) == targets).sum()
        loss.update(summed.double() / counted, counted)
        accuracy.update(right.double() / counted, counted)
    result = {"loss": float(loss.compute()), "accuracy": float(accuracy.compute())}
    if kind == "tokens":
        result["bits_per_byte"] = result["loss"] / math.log(2)
    return result | figures.compute()
