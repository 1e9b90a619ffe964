"""Tables to classify, from OpenML, with nothing but numpy."""

import warnings
from typing import Any

import numpy as np

from .table_files import Table, table_of

__all__ = ["read_openml"]


def read_openml(which: str, cache: str | None) -> Table:
    """Fetch a classification set from OpenML, or from its cache.

    Args:
        which: Its number or its name.
        cache: Folder to keep it in; scikit-learn's own if None.

    Raises:
        ValueError: OpenML cannot be reached or does not know it, or it has no classes.
    """
    from urllib.error import URLError

    from sklearn import datasets

    query: dict[str, Any] = {"data_id": int(which)} if which.isdigit() else {"name": which}
    try:
        with warnings.catch_warnings():
            # The error below says it all, once and in one line.
            warnings.filterwarnings("ignore", "A network error occurred")
            # liac-arff reads plain arrays; the other parser needs pandas.
            bunch: Any = datasets.fetch_openml(
                **query, data_home=cache, as_frame=False, parser="liac-arff", n_retries=1
            )
    except (URLError, TimeoutError) as error:
        raise ValueError(
            f"openml:{which} could not be fetched ({error}); check the network, or give CSV"
            " files by data.root=…"
        ) from error
    if not isinstance(bunch.data, np.ndarray):
        raise ValueError(f"openml:{which} is a sparse table; only dense ones are read")
    labels = np.asarray(bunch.target)
    if labels.dtype.kind == "f" or labels.ndim != 1:
        raise ValueError(f"openml:{which} has no single column of classes to predict")
    categories = bunch.categories or {}
    columns = []
    for name, codes in zip(bunch.feature_names, np.asarray(bunch.data).T, strict=True):
        missing = np.isnan(codes.astype(np.float64))
        if name in categories:
            values = [
                str(categories[name][0 if gone else int(code)])
                for code, gone in zip(codes, missing, strict=True)
            ]
        else:
            values = [repr(float(code)) for code in codes]
        columns.append(["" if gone else v for v, gone in zip(values, missing, strict=True)])
    names = [str(label) for label in labels]
    return table_of(bunch.feature_names, columns, names, set(categories), f"openml:{which}")
