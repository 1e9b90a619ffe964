"""What commands wrote into a run's folder after it, checked before a chart is made of it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["COSTS_FILE", "read_certificate", "read_costs", "read_mapping", "read_robustness"]

COSTS_FILE = "costs.json"
"""What `compare` measured of a run's model."""


def read_mapping(file: Path) -> Mapping[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        ValueError: it holds something else.
    """
    content = json.loads(file.read_text())
    if not isinstance(content, Mapping):
        raise ValueError("it holds no mapping")
    return content


def read_costs(file: Path) -> Mapping[str, Any]:
    """Costs by name, each a number or a mapping with its median.

    Raises:
        ValueError: one is neither.
    """
    costs = read_mapping(file)
    for name, cost in costs.items():
        _number(cost.get("median") if isinstance(cost, Mapping) else cost, name)
    return costs


def read_certificate(file: Path) -> Mapping[str, Any]:
    """A certificate, whose accuracies and radii are numbers.

    Raises:
        ValueError: one is not.
    """
    found = read_mapping(file)
    for key in ("certified_accuracy", "attacked_accuracy"):
        _check_rows(found, key)
    _check_clean(found, "clean_accuracy")
    radii, correct = found.get("radius") or [], found.get("correct") or []
    if not isinstance(radii, list) or not isinstance(correct, list) or len(radii) != len(correct):
        raise ValueError("it has other numbers of radii and of samples")
    for radius in radii:
        if radius != "inf":
            _number(radius, "radius")
    return found


def read_robustness(file: Path) -> Mapping[str, Any]:
    """What an attack reached, whose accuracies are numbers.

    Raises:
        ValueError: one is not.
    """
    found = read_mapping(file)
    _check_rows(found, "attacked")
    _check_clean(found, "clean")
    if not isinstance(found.get("attack"), Mapping):
        raise ValueError("it names no attack")
    return found


def _check_rows(found: Mapping[str, Any], key: str) -> None:
    rows = found.get(key) or []
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"{key} is no list of radii with their accuracies")
    for row in rows:
        _number(row.get("eps"), f"eps of {key}")
        _number(row.get("accuracy"), key)


def _check_clean(found: Mapping[str, Any], key: str) -> None:
    if found.get(key) is not None:
        _number(found[key], key)


def _number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is no number: {value!r}")
