"""Tables to classify, with preprocessing that is fitted on the training fold alone."""

from dataclasses import replace
from typing import Any

import torch

from ..data_set import Splits, data_sets
from ..download import fingerprint
from ..fold_storage import ArrayFold
from ..openml import read_openml
from ..stratified_split import held_out, split_off
from ..table_encoder import TableEncoder
from ..table_files import Table, read_bundled, read_csv

__all__ = ["subsample", "tabular"]


def subsample(table: Table, rows: int) -> Table:
    """Keep a fixed choice of rows, every class in proportion to within one row.

    Args:
        table: What to choose from.
        rows: How many to keep, at least 1; a table of no more is returned as it is.

    Raises:
        ValueError: rows < 1.
    """
    if rows >= len(table.targets):
        return table
    _, kept = split_off(torch.from_numpy(table.targets), rows, name="max_rows")
    chosen = kept.numpy()
    return replace(
        table,
        numeric=table.numeric[chosen],
        nominal=table.nominal[chosen],
        targets=table.targets[chosen],
    )


@data_sets.register(kind="features", source="scikit-learn, CSV files or openml.org")
def tabular(
    *,
    table: str = "breast_cancer",
    root: str | None = None,
    target: str | None = None,
    split: int = 0,
    max_rows: int | None = None,
    encoder: dict[str, Any] | None = None,
) -> Splits:
    """A table to classify: bundled with scikit-learn, a CSV file, or from OpenML.

    The rows are cut into five fixed stratified test folds that together hold every row once;
    `split` says which one to test on. An eighth of the other rows validates. Features are
    imputed, standardised and one-hot encoded as the training fold says.

    Args:
        table: `breast_cancer`, `digits`, `iris` or `wine`; with a root, the name of a CSV file;
            or `openml:` followed by a number or a name.
        root: Folder of CSV files, with or without an `index.json`; for OpenML, the folder to
            cache in.
        target: Name of the column of a CSV file that holds the classes; None is the last one.
        split: Which fold to test on, in [0, 4].
        max_rows: Of a larger table, this many rows are kept before anything else: a fixed
            choice, every class in proportion. None keeps all.
        encoder: What turns rows into features, as a trained model keeps it; None learns it from
            the training fold.

    Raises:
        ValueError: no such table, fewer than ten rows or two classes in it, max_rows < 1, or an
            encoder of other columns.
    """
    if target is not None and (root is None or table.startswith("openml:")):
        raise ValueError(f"target={target} names a column of a CSV file; give data.root=… too")
    if table.startswith("openml:"):
        raw = read_openml(table.removeprefix("openml:"), root)
    else:
        raw = read_bundled(table) if root is None else read_csv(root, table, target)
    if max_rows is not None:
        raw = subsample(raw, max_rows)
    rows = len(raw.targets)
    if rows < 10 or len(raw.classes) < 2:
        raise ValueError(
            f"{table} has {rows} rows and {len(raw.classes)} classes;"
            " at least 10 rows and 2 classes are needed"
        )
    targets = torch.from_numpy(raw.targets)
    rest, test = held_out(targets, split)
    train, validation = split_off(targets[rest], max(1, len(rest) // 8))
    numbers = {"train": rest[train], "validation": rest[validation], "test": test}
    if encoder is None:
        learnt = TableEncoder.fit(raw, numbers["train"].numpy())
    else:
        learnt = TableEncoder.of(encoder)
    features = torch.from_numpy(learnt.encode(raw))
    folds: dict[str, Any] = {
        key: ArrayFold(features[rows], targets[rows]) for key, rows in numbers.items()
    }
    about = {
        "source": raw.source,
        "classes": raw.classes,
        "columns": raw.columns,
        "encoder": learnt.as_json(),
        "split": split,
        "sizes": {key: len(fold) for key, fold in folds.items()},
        "sha256": {key: fingerprint(fold.inputs, fold.targets) for key, fold in folds.items()},
    }
    return Splits("features", (features.shape[1],), len(raw.classes), **folds, about=about)
