"""What turns a row of a table into numbers, learnt from the training rows and kept with a model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .table_files import MISSING, Table

__all__ = ["TableEncoder"]


@dataclass(frozen=True)
class TableEncoder:
    """Imputation, standardisation and categories of a table's columns.

    A missing number becomes the median; numbers are then brought to mean 0 and variance 1. A
    category becomes an indicator, and "missing" counts as a category; one that was not learnt is
    all zeros.

    Args:
        numeric: Names of the columns of numbers; one without a value to learn from is left out.
        median: Of each.
        mean: Of each, after the imputation.
        scale: Standard deviation of each, 1 where it is constant.
        nominal: Names of the columns of categories.
        categories: Of each, in the order of their indicators; empty where missing.
    """

    numeric: list[str]
    median: list[float]
    mean: list[float]
    scale: list[float]
    nominal: list[str]
    categories: list[list[str]]

    @classmethod
    def fit(cls, table: Table, rows: np.ndarray) -> "TableEncoder":
        """Learn from some rows of a table.

        Args:
            table: The table.
            rows: Numbers of the rows to learn from.

        Raises:
            ValueError: no column is left.
        """
        from sklearn.impute import SimpleImputer
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        gaps = np.isnan(table.numeric[rows])
        known = [not gaps[:, i].all() for i in range(gaps.shape[1])]
        numeric = [n for n, keep in zip(table.columns["numeric"], known, strict=True) if keep]
        nominal = list(table.columns["categorical"])
        if not numeric and not nominal:
            raise ValueError(f"{table.source} has no column with a value to learn from")
        median: Any = np.empty(0)
        mean: Any = np.empty(0)
        scale: Any = np.empty(0)
        if numeric:
            imputer, scaler = SimpleImputer(strategy="median"), StandardScaler()
            scaler.fit(imputer.fit_transform(table.numeric[rows][:, known]))
            median, mean, scale = imputer.statistics_, scaler.mean_, scaler.scale_
        categories: list[Any] = []
        if nominal:
            categories = OneHotEncoder().fit(table.nominal[rows]).categories_
        return cls(
            numeric=numeric,
            median=median.tolist(),
            mean=mean.tolist(),
            scale=scale.tolist(),
            nominal=nominal,
            categories=[[str(word) for word in words] for words in categories],
        )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "TableEncoder":
        """Make the encoder that `as_json` wrote.

        Raises:
            ValueError: other facts than an encoder's.
        """
        try:
            return cls(**facts)
        except TypeError as error:
            raise ValueError(f"encoder is not that of a table: {error}") from error

    def encode(self, table: Table) -> np.ndarray:
        """Return float32 features (rows, F) of a table with these columns; numbers come first.

        Raises:
            ValueError: the table lacks a column, or holds text where a number was learnt.
        """
        for kind, names in (("numeric", self.numeric), ("categorical", self.nominal)):
            lacking = [name for name in names if name not in table.columns[kind]]
            if lacking:
                raise ValueError(f"{table.source} lacks the {kind} column {lacking[0]!r}")
        numeric = table.numeric[:, [table.columns["numeric"].index(n) for n in self.numeric]]
        nominal = table.nominal[:, [table.columns["categorical"].index(n) for n in self.nominal]]
        filled = np.where(np.isnan(numeric), np.array(self.median), numeric)
        blocks = [(filled - np.array(self.mean)) / np.array(self.scale)]
        for column, words in zip(nominal.T, self.categories, strict=True):
            blocks.append((column[:, None] == np.array(words, dtype=object)[None]).astype(float))
        return np.concatenate(blocks, 1).astype(np.float32)

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return float32 features (rows, F) of new rows, such as those of a `csv.DictReader`.

        Args:
            rows: Cells by the name of their column; other columns are passed over.

        Raises:
            ValueError: a column that a row lacks, or text where a number was learnt.
        """
        for row in rows:
            lacking = [name for name in (*self.numeric, *self.nominal) if name not in row]
            if lacking:
                raise ValueError(f"a row lacks the column {lacking[0]!r}")
        return self.encode(
            Table(
                np.array(
                    [[_number(n, row[n]) for n in self.numeric] for row in rows], dtype=float
                ).reshape(len(rows), len(self.numeric)),
                np.array(
                    [[str(row[n]) for n in self.nominal] for row in rows], dtype=object
                ).reshape(len(rows), len(self.nominal)),
                np.zeros(len(rows), dtype=np.int64),
                [],
                "new rows",
                {"numeric": self.numeric, "categorical": self.nominal},
            )
        )

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain values, which `TableEncoder.of(facts)` takes back."""
        return asdict(self)


def _number(name: str, cell: Any) -> float:
    text = str(cell).strip()
    try:
        return np.nan if text.lower() in MISSING or cell is None else float(text)
    except ValueError:
        raise ValueError(f"column {name!r} holds numbers, got {cell!r}") from None
