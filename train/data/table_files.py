"""Tables to classify, from scikit-learn or from CSV files."""

import csv
import gzip
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np

from ...zoo.registry import nearest
from .download import require

__all__ = [
    "BUNDLED",
    "MISSING",
    "UNREADABLE",
    "Table",
    "csv_lines",
    "is_packed",
    "open_text",
    "read_bundled",
    "read_csv",
    "refuse_repeated_columns",
    "table_of",
]

log = logging.getLogger("archzoo")

MISSING = ("", "na", "n/a", "nan", "null", "?", "inf", "+inf", "-inf", "infinity", "-infinity")
"""Cells that hold no value, in lower case."""

MOST_CLASSES = 20
"""Different numbers that may be classes without being looked at."""

UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)
"""What a file raises that is not there, was cut off, is damaged, or is no text in UTF-8."""

LONGEST_CELL = 2**31 - 1
"""Letters of a cell: all that every platform counts."""

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
        columns: Cells of each column; what stands in `MISSING` is missing.
        labels: Class of each row.
        categorical: Names of the columns that hold categories; None takes every column for one
            that has a cell which is neither a number nor missing.
        source: Where the table comes from.

    Raises:
        ValueError: a column that should hold numbers does not, or targets that are no classes.
    """
    numbers: dict[str, np.ndarray] = {}
    words: dict[str, np.ndarray] = {}
    for name, column in zip(header, columns, strict=True):
        parsed = None if categorical is not None and name in categorical else _numbers(column)
        if parsed is not None:
            numbers[name] = parsed
            _say_missing(source, name, column)
        elif categorical is None or name in categorical:
            words[name] = np.array(column, dtype=object)
        else:
            raise ValueError(
                f"{source}: column {name!r} holds text but is not declared categorical"
            )
    classes, targets = np.unique(np.array(class_names(labels, source)), return_inverse=True)
    rows = len(labels)
    return Table(
        np.stack(list(numbers.values()), 1) if numbers else np.empty((rows, 0)),
        np.stack(list(words.values()), 1) if words else np.empty((rows, 0), dtype=object),
        targets.astype(np.int64),
        [str(name) for name in classes],
        source,
        {"numeric": list(numbers), "categorical": list(words)},
    )


def class_names(labels: Sequence[str], source: str) -> list[str]:
    """Return the class of each row: whole numbers are one class however they are written.

    Raises:
        ValueError: the labels are measurements, numbers of which most rows have one of their own.
    """
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return list(labels)
    whole = all(value.is_integer() for value in values)
    distinct = len(set(values))
    if distinct > MOST_CLASSES and (not whole or 2 * distinct > len(values)):
        raise ValueError(
            f"{source}: the target has {distinct} different numbers in {len(values)} rows: "
            f"measurements and no classes; name another column by data.target=…"
        )
    return [str(int(value)) for value in values] if whole else list(labels)


def _numbers(column: Sequence[str]) -> np.ndarray | None:
    """Read a column as finite numbers, NaN where missing; None if a cell is anything else."""
    try:
        return np.array([np.nan if cell.lower() in MISSING else float(cell) for cell in column])
    except ValueError:
        return None


def _say_missing(source: str, name: str, column: Sequence[str]) -> None:
    words = sorted({cell for cell in column if cell and cell.lower() in MISSING})
    if words:
        log.warning("%s: column %r: %s are missing values", source, name, ", ".join(words))


def read_csv(root: str, name: str, target: str | None = None) -> Table:
    """Read `root/name.csv`: a header, the target in its last column, empty cells missing.

    Where `root/index.json` describes the table, it says which columns are categorical and how
    many rows there are; otherwise a column is categorical if a cell of it is not a number.

    Args:
        root: The folder.
        name: Of the file, without its ending.
        target: Name of the column with the classes; None is the last one.

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
    header, rows = _read_rows(path, target)
    facts = _facts(folder / INDEX, name)
    if facts.get("rows", len(rows)) != len(rows):
        raise ValueError(f"{path} has {len(rows)} rows where {INDEX} states {facts['rows']}")
    *columns, labels = zip(*rows, strict=True) if rows else [()] * len(header)
    declared = set(facts["categorical"]) if "categorical" in facts else None
    return table_of(header[:-1], columns, labels, declared, facts.get("source", str(path)))


def _read_rows(path: Path, target: str | None) -> tuple[list[str], list[list[str]]]:
    """Read header and cells, the target's column last."""
    lines = csv_lines(path)
    _, header = next(lines)
    place = _place(path, header, target)
    rows = []
    for number, row in lines:
        if len(row) != len(header):
            raise ValueError(f"{path}: line {number} has {len(row)} cells, not {len(header)}")
        label = row.pop(place)
        if label.lower() in MISSING:
            said = f" but {label!r}" if label else ""
            raise ValueError(f"{path}: line {number} has no target{said}")
        rows.append([*row, label])
    return [*header[:place], *header[place + 1 :], header[place]], rows


def is_packed(file: Path) -> bool:
    """Whether a name ends in `.gz`, in letters of either case."""
    return file.suffix.lower() == ".gz"


def open_text(file: Path, newline: str | None = None) -> TextIO:
    """Open a text in UTF-8, with a byte order mark or without, unpacked where gzip packed it.

    Args:
        file: Its path.
        newline: As of `open`.
    """
    if is_packed(file):
        return cast(TextIO, gzip.open(file, "rt", encoding="utf-8-sig", newline=newline))
    return file.open(encoding="utf-8-sig", newline=newline)


def csv_lines(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of every line of a CSV file but empty ones, the header first.

    A name that ends in `.gz` is of a file that gzip packed. Between tabs a quote is a letter.

    Raises:
        ValueError: the file cannot be read as a table.
    """
    # The module's own limit is 131,072 letters, and a gene may have more.
    csv.field_size_limit(LONGEST_CELL)
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    try:
        with open_text(path, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
            yield 1, [cell.strip() for cell in next(reader, [])]
            for row in reader:
                if row:
                    yield reader.line_num, [cell.strip() for cell in row]
    except (*UNREADABLE, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table in UTF-8: {error}") from error


def refuse_repeated_columns(path: str | Path, header: Sequence[str]) -> None:
    """Refuse a header whose names tell no columns apart.

    Raises:
        ValueError: it has no names, or one twice.
    """
    twice = [name for name in header if header.count(name) > 1]
    if twice or not header:
        what = f"two columns named {twice[0]!r}" if twice else "no header"
        raise ValueError(f"{path} has {what}; give every column a name of its own")


def _place(path: Path, header: list[str], target: str | None) -> int:
    """Find the target among the names of the columns, which must be told apart."""
    refuse_repeated_columns(path, header)
    if target is None:
        if "target" in header[:-1]:
            raise ValueError(
                f"{path}: is the column 'target' or the last one, {header[-1]!r}, to be predicted? "
                f"Say data.target=…"
            )
        return len(header) - 1
    if target not in header:
        raise ValueError(f"{path} has no column data.target={target}{nearest(target, header)}")
    return header.index(target)


def _facts(index: Path, name: str) -> dict[str, Any]:
    """What an index says of a table."""
    if not index.is_file():
        return {}
    try:
        return json.loads(index.read_text(encoding="utf-8")).get(name, {})
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{index} is damaged: {error}") from error


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
