"""Tables to classify, from scikit-learn or from CSV files."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...zoo.registry import nearest
from .files import require

__all__ = ["BUNDLED", "Table", "read_bundled", "read_csv", "table_of"]

BUNDLED = ("breast_cancer", "digits", "iris", "wine")
INDEX = "index.json"


@dataclass(frozen=True)
class Table:
    """Rows, features and classes, before any preprocessing.

    Args:
        numeric: float64, shape (rows, P); NaN where missing.
        nominal: Strings in an object array, shape (rows, Q); empty where missing.
        targets: int64, shape (rows,).
        classes: Name of each class, sorted.
        source: Where the table comes from.
        columns: Names of the numeric and of the nominal columns.
    """

    numeric: np.ndarray
    nominal: np.ndarray
    targets: np.ndarray
    classes: list[str]
    source: str
    columns: dict[str, list[str]] = field(default_factory=dict)


def table_of(
    header: Sequence[str],
    columns: Sequence[Sequence[str]],
    labels: Sequence[str],
    categorical: set[str] | None,
    source: str,
) -> Table:
    """Sort columns of text into numbers and categories.

    Args:
        header: Name of each column.
        columns: Cells of each column; empty where missing.
        labels: Class of each row.
        categorical: Names of the columns that hold categories; None takes every column for one
            that has a cell which is not a finite number.
        source: Where the table comes from.

    Raises:
        ValueError: a column that should hold numbers does not.
    """
    numbers: dict[str, np.ndarray] = {}
    words: dict[str, np.ndarray] = {}
    for name, column in zip(header, columns, strict=True):
        parsed = None if categorical is not None and name in categorical else _numbers(column)
        if parsed is not None:
            numbers[name] = parsed
        elif categorical is None or name in categorical:
            words[name] = np.array(column, dtype=object)
        else:
            raise ValueError(
                f"{source}: column {name!r} holds text but is not declared categorical"
            )
    classes, targets = np.unique(np.array(labels), return_inverse=True)
    rows = len(labels)
    return Table(
        np.stack(list(numbers.values()), 1) if numbers else np.empty((rows, 0)),
        np.stack(list(words.values()), 1) if words else np.empty((rows, 0), dtype=object),
        targets.astype(np.int64),
        [str(name) for name in classes],
        source,
        {"numeric": list(numbers), "categorical": list(words)},
    )


def _numbers(column: Sequence[str]) -> np.ndarray | None:
    """Read a column as finite numbers, NaN where empty; None if a cell is anything else."""
    try:
        values = np.array([float(cell) if cell else np.nan for cell in column])
    except ValueError:
        return None
    return None if np.isinf(values).any() else values


def read_csv(root: str, name: str) -> Table:
    """Read `root/name.csv`: a header, the last column `target`, empty cells missing.

    Where `root/index.json` describes the table, it says which columns are categorical and how
    many rows there are; otherwise a column is categorical if a cell of it is not a number.

    Raises:
        ValueError: no such folder, no such table (with the nearest), or a malformed one.
    """
    folder = Path(root).absolute()
    require("tabular", folder)
    known = [path.stem for path in folder.glob("*.csv")]
    if name not in known:
        raise ValueError(
            f"tabular: {folder} holds no table named {name!r}{nearest(name, known)}"
            if known
            else f"tabular: no CSV files were found in {folder}; give data.root=…"
        )
    path = folder / f"{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header[-1:] != ["target"]:
            raise ValueError(f"{path}: the last column must be named 'target', got {header[-1:]}")
        rows = []
        for row in reader:
            if len(row) != len(header):
                raise ValueError(
                    f"{path}: line {reader.line_num} has {len(row)} cells, not {len(header)}"
                )
            if not row[-1].strip():
                raise ValueError(f"{path}: line {reader.line_num} has no target")
            rows.append([cell.strip() for cell in row])
    facts: dict[str, Any] = {}
    if (folder / INDEX).is_file():
        facts = json.loads((folder / INDEX).read_text(encoding="utf-8")).get(name, {})
    if facts.get("rows", len(rows)) != len(rows):
        raise ValueError(f"{path} has {len(rows)} rows where {INDEX} states {facts['rows']}")
    *columns, labels = zip(*rows, strict=True) if rows else [()] * len(header)
    declared = set(facts["categorical"]) if "categorical" in facts else None
    return table_of(header[:-1], columns, labels, declared, facts.get("source", str(path)))


def read_bundled(name: str) -> Table:
    """Load one of the classification sets that come with scikit-learn.

    Raises:
        ValueError: no such set; the message names the nearest.
    """
    if name not in BUNDLED:
        raise ValueError(
            f"no bundled table named {name!r}{nearest(name, BUNDLED)}; give data.root=… for CSV"
            " files or data.table=openml:… for OpenML"
        )
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return Table(
        np.asarray(bunch.data, dtype=np.float64),
        np.empty((len(bunch.data), 0), dtype=object),
        np.asarray(bunch.target, dtype=np.int64),
        [str(label) for label in bunch.target_names],
        f"scikit-learn, load_{name}",
        {"numeric": [str(column) for column in bunch.feature_names], "categorical": []},
    )
