"""Kept results of benchmarks, and how figures of them are written."""

import json
import re
from collections.abc import Sequence
from typing import Any

from ..reference import ROOT

__all__ = ["RESULTS", "bold", "dense_accuracy", "mean", "only", "result", "rounded", "rows"]

RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> dict[str, Any]:
    """The kept result of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def rows(name: str, **where: Any) -> list[dict[str, Any]]:
    """The rows of a kept result that hold the values named, in their order."""
    found = result(name)["rows"]
    return [row for row in found if all(row.get(key) == value for key, value in where.items())]


def only(name: str, **where: Any) -> dict[str, Any]:
    """The one row of a kept result that holds the values named.

    Raises:
        ValueError: there is none, or more than one.
    """
    (row,) = rows(name, **where)
    return row


def mean(figures: Sequence[float]) -> float:
    """The mean of some figures."""
    return sum(figures) / len(figures)


def bold(text: str, chosen: bool) -> str:
    """A text, in bold where it is chosen."""
    return f"**{text}**" if chosen else text


def dense_accuracy() -> float:
    """Test accuracy in per cent of the dense ResNet-20, from which compression starts."""
    dense = rows("lowrank_fashion_mnist", method="SVD after training")
    return mean([row["as trained, %"] for row in dense])


def rounded(text: str) -> str:
    """A text whose figures have two digits after the point."""
    return re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.2f}", text)
