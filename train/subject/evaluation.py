"""Figures of a model on a fold: overall, class by class, and under corruptions of its images."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.graph_metrics import GraphMetrics
from ..engine.half_precision import autocast
from ..engine.metrics import predictions
from ..errors import RunError
from ..measures.classification import (
    Outcomes,
    accuracy,
    all_outcomes,
    calibration_error,
    class_accuracies,
    confusion_matrix,
    negative_log_likelihood,
    summary,
)
from .model_on_data import ModelOnData

__all__ = ["MOST_CLASSES", "class_figures", "corrupted_figures", "fold_figures"]

MOST_CLASSES = 100
"""Up to how many classes a confusion matrix is given unasked."""


def fold_figures(subject: ModelOnData, split: str, **how: Any) -> tuple[dict[str, Any], Outcomes]:
    """Measure a model on a fold.

    Args:
        subject: The model and its data.
        split: The fold.
        how: `batch_size`, `device`, `dtype` and `channels_last`.

    Returns:
        The figures of `classification.summary`, with `bits_per_byte` for bytes and those of
        `GraphMetrics` for nodes, and the outcomes that they are of.

    Raises:
        RunError: an empty fold, or logits that are no numbers.
    """
    further = GraphMetrics(subject.splits.kind, how["device"])
    found = _outcomes(subject, subject.batches(split, how["batch_size"]), further, **how)
    tokens = subject.splits.kind in ("tokens", "masked")
    classes = len(subject.classes or ()) or subject.splits.num_classes
    figures = summary(found, classes, tokens=tokens)
    if tokens:
        unit = "byte" if classes == 256 else "token"
        figures[f"bits_per_{unit}"] = figures.pop("bits")
    return figures | further.compute(), found


def class_figures(
    subject: ModelOnData, found: Outcomes, confusion: bool | None = None
) -> dict[str, Any]:
    """Return `classes`, a row for each, and `confusion`, true classes down and predicted across.

    Args:
        subject: Of images, tables or the nodes of a graph; what has no classes has neither.
        found: Outcomes on a fold.
        confusion: Whether the matrix is there; None is up to `MOST_CLASSES` classes.
    """
    if subject.splits.kind not in ("image", "features", "graph", "sequence"):
        return {}
    names = subject.classes or [str(number) for number in range(subject.splits.num_classes)]
    counts = confusion_matrix(found, len(names))
    rows = [
        {"class": name, "samples": samples, "accuracy": share}
        for name, samples, share in zip(
            names, counts.sum(1).tolist(), class_accuracies(counts), strict=True
        )
    ]
    shown = len(names) <= MOST_CLASSES if confusion is None else confusion
    return {"classes": rows, **({"confusion": counts.tolist()} if shown else {})}


def corrupted_figures(
    subject: ModelOnData,
    split: str,
    names: Sequence[str],
    severities: Sequence[int],
    seed: int,
    **how: Any,
) -> dict[str, Any]:
    """Measure a model on a fold under every corruption at every severity.

    Args:
        subject: The model and its images.
        split: The fold.
        names: Of corruptions.
        severities: 1 to 5 each.
        seed: Of noise.
        how: As in `fold_figures`.

    Returns:
        `rows` of corruption, severity, accuracy, nll and ece, and their `mean`.

    Raises:
        RunError: the data are no images, or as `fold_figures`.
    """
    rows = []
    for name, severity in itertools.product(names, severities):
        batches = subject.corrupted(split, how["batch_size"], name, severity, seed)
        found = _outcomes(subject, batches, **how)
        rows.append(
            {
                "corruption": name,
                "severity": severity,
                "accuracy": accuracy(found),
                "nll": negative_log_likelihood(found),
                "ece": calibration_error(found),
            }
        )
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("accuracy", "nll", "ece")}
    return {"rows": rows, "mean": mean}


def _outcomes(
    subject: ModelOnData,
    batches: Iterable[tuple[Tensor, Tensor]],
    further: GraphMetrics | None = None,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool = False,
) -> Outcomes:
    """Run a model, in a number format and on a device, over batches.

    Raises:
        RunError: samples that cannot be read, or logits that are no numbers.
    """
    model = subject.model.to(device=device, dtype=dtype)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)

    def as_read() -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in batches:
            if inputs.is_floating_point():
                inputs = inputs.to(dtype)
            if channels_last and inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs, targets

    from tqdm import tqdm

    shown = tqdm(as_read(), subject.data, unit=" batches", disable=not sys.stderr.isatty())
    try:
        plain = predictions(model, shown, device, lambda: autocast(device.type, "off"))
        return all_outcomes(plain if further is None else _shown_to(further, plain))
    except ValueError as error:
        raise RunError(f"{subject.name} on {subject.data}: {error}") from error


def _shown_to(
    further: GraphMetrics, pairs: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and targets after some metrics took them in."""
    for logits, targets in pairs:
        further.update(logits, targets.to(logits.device))
        yield logits, targets
