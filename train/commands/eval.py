"""Measure a model on any data set: accuracy, likelihood, calibration, class by class, corrupted.

Prints accuracy, top-5 accuracy, negative log-likelihood, calibration error and the accuracy of
every class; for text bits per byte; for links and nodes of a graph AUC, average precision and F1;
for images, if asked, accuracy under corruptions. A run is measured on its own test fold, and
pretrained weights on that of their card, unless other data are named:

    archzoo eval runs/RUN
    archzoo eval runs/RUN split=validation --json
    archzoo eval runs/RUN corruptions=true severity=[1,3,5]
    archzoo eval my-model data=cifar10 data.root=DIR
    archzoo eval hf-hub:OWNER/NAME data=tabular data.table=wine
    archzoo eval pretrained:vit_nano_block_attnres
"""

import time
from collections.abc import Mapping
from typing import Any, Literal

import torch

from ...zoo.share.pretrained import PRETRAINED
from ..command_line.answer import Answer
from ..command_line.table import aligned
from ..engine.process import choose_device
from ..errors import RunError, check_at_least_one
from ..measures.corruptions import CORRUPTIONS, SEVERITIES, strength
from ..subject.evaluation import class_figures, corrupted_figures, fold_figures
from ..subject.given_data import model_on_data
from ..subject.given_model import ModelPlace, find_model
from ..subject.model_and_folds import ModelOnData

__all__ = ["eval_"]

PERCENT = ("accuracy", "top5", "ece")
NAMES = {
    "accuracy": "accuracy, %",
    "top5": "top-5 accuracy, %",
    "nll": "negative log-likelihood, nats",
    "bits_per_byte": "bits per byte",
    "bits_per_token": "bits per token",
    "ece": "calibration error (15 bins), %",
    "brier": "Brier score",
    "auc": "AUC",
    "average_precision": "average precision",
    "f1": "F1 of the second class",
    "macro_f1": "F1, mean of the classes",
}
MOST_COLUMNS = 20  # of a confusion matrix that is printed


def eval_(
    model: str,
    *,
    data: str | dict[str, Any] | None = None,
    split: Literal["test", "validation", "train"] = "test",
    corruptions: bool | list[str] = False,
    severity: tuple[int, ...] = SEVERITIES,
    confusion: bool | None = None,
    batch_size: int = 250,
    dtype: Literal["float32", "float64", "bfloat16"] = "float32",
    channels_last: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    seed: int = 0,
    other_data: bool = False,
    imports: list[str] | None = None,
) -> Answer:
    """Measure a model on a fold of a data set.

    Args:
        model: The folder of a run or of a saved model, hf-hub:OWNER/NAME, pretrained:NAME or
            pretrained:NAME/TAG, or a registered name, whose weights are then untrained.
        data: A data set by name, with its keys as data.KEY=value; null is that of the run or of the
            pretrained weights.
        split: The fold; that of training comes augmented.
        corruptions: Whether to measure images under corruptions too, or a list of which.
        severity: Of the corruptions, from 1 to 5.
        confusion: Whether to give the confusion matrix; null is for up to 100 classes.
        batch_size: Samples at a time.
        dtype: Of the model and its inputs.
        channels_last: Whether images lie in memory with their channels last.
        device: Where the model runs.
        threads: CPU threads of torch; null leaves torch's choice.
        seed: Of the noise of corruptions, and of the weights of a registered name.
        other_data: Whether the run's data may have changed, and classes of other names are scored
            by their number.
        imports: Your own modules; null is those that the run recorded.

    Raises:
        RunError: no such model or data, or the two do not fit.
    """
    started = time.perf_counter()
    check_at_least_one(batch_size=batch_size, threads=threads)
    names = _corruptions(corruptions, severity)
    if threads is not None:
        torch.set_num_threads(threads)
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "device": choose_device(device),
        "dtype": getattr(torch, dtype),
        "channels_last": channels_last,
    }
    place = find_model(model, imports)
    options = dict(data) if isinstance(data, Mapping) else {"name": data}
    name = options.pop("name", None)
    subject = model_on_data(place, name, options, other_data=other_data, seed=seed)
    figures, outcomes = fold_figures(subject, split, **how)
    found: dict[str, Any] = {
        "model": subject.name,
        "from": model,
        "trained": place.trained,
        "data": subject.data,
        "split": split,
        **figures,
        "reported": _reported(place, subject, split),
        **class_figures(subject, outcomes, confusion),
    }
    if names:
        corrupted = corrupted_figures(subject, split, names, severity, seed, **how)
        found["corruptions"] = corrupted
    found["seconds"] = round(time.perf_counter() - started, 3)
    return Answer(found, _text(found))


def _corruptions(wanted: bool | list[str], severity: tuple[int, ...]) -> list[str]:
    """List the corruptions that are asked for.

    Raises:
        RunError: no such corruption or severity, or none.
    """
    names = list(CORRUPTIONS) if wanted is True else wanted or []
    if not severity:
        raise RunError("severity must name at least one of 1, 2, 3, 4, 5, got none")
    try:
        for name in names:
            for each in severity:
                strength(name, each, side=1)
    except ValueError as error:
        raise RunError(f"corruptions: {error}") from error
    return names


def _reported(place: ModelPlace, subject: ModelOnData, split: str) -> float | None:
    """The accuracy that the run itself, or the card of the weights, reported of this fold."""
    if place.card is not None and subject.own and split == "test":
        return place.card.metrics.get("accuracy")
    if place.run is None or not subject.own or split == "train":
        return None
    result = place.run.read_result(place.config)
    return None if result is None else result[split].get("accuracy")


def _text(found: Mapping[str, Any]) -> str:
    """Write what was found for a reader."""
    told = found["reported"]
    who = "the card says" if found["from"].startswith(PRETRAINED) else "the run reported"
    said = "" if told is None else f"; {who} {100 * told:.2f} %"
    untrained = "" if found["trained"] else "; its weights are untrained"
    lines = [
        f"{found['model']} on {found['data']}, {found['samples']:,} samples of the "
        f"{found['split']} fold{said}{untrained}",
        "",
        *aligned(
            [
                (name, f"{100 * found[key]:.2f}" if key in PERCENT else f"{found[key]:.4f}")
                for key, name in NAMES.items()
                if key in found
            ],
            left=1,
        ),
    ]
    if "classes" in found:
        lines += ["", *aligned(_class_rows(found), left=1)]
    matrix = found.get("confusion")
    if matrix is not None and len(matrix) <= MOST_COLUMNS:
        classes = [row["class"] for row in found["classes"]]
        head = ("true \\ predicted", *classes)
        rows = [(name, *map(str, row)) for name, row in zip(classes, matrix, strict=True)]
        lines += ["", *aligned([head, *rows], left=1)]
    if "corruptions" in found:
        lines += ["", *aligned(_corruption_rows(found["corruptions"]), left=1)]
    return "\n".join(lines)


def _class_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [("class", "samples", "accuracy, %")]
    for row in found["classes"]:
        share = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f}"
        rows.append((row["class"], f"{row['samples']:,}", share))
    return rows


def _corruption_rows(corrupted: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Accuracies in percent: corruptions down, severities across, means at the ends."""
    cells = {(row["corruption"], row["severity"]): row["accuracy"] for row in corrupted["rows"]}
    names = list(dict.fromkeys(name for name, _ in cells))
    levels = list(dict.fromkeys(level for _, level in cells))
    rows: list[tuple[str, ...]] = [
        ("corruption, accuracy in %", *(f"severity {level}" for level in levels), "mean")
    ]
    for name in names:
        shares = [cells[name, level] for level in levels]
        rows.append((name, *(f"{100 * s:.2f}" for s in [*shares, sum(shares) / len(shares)])))
    means = [sum(cells[name, level] for name in names) / len(names) for level in levels]
    total = corrupted["mean"]["accuracy"]
    rows.append(("mean", *(f"{100 * share:.2f}" for share in [*means, total])))
    return rows
