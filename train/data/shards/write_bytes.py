"""Bytes of text files as token files, in the folds of the data set `bytes`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..corpus import FEW, FOLDS, cuts, files_of, fold_of
from .write_shards import write_shards

__all__ = ["write_bytes"]

PART = 2**24
"""Bytes that are read at once: a file need not fit into memory."""

Parts = dict[str, list[tuple[Path, int, int]]]
"""For each fold the files it takes from, and the first and the last place in each."""


def write_bytes(
    source: Path, folder: Path, *, pattern: str = "*", shard_size: int = 100_000_000
) -> dict[str, int]:
    """Write a text file, or those of a folder, as tokens of a vocabulary of 256.

    Args:
        source: A file or a folder.
        folder: Where the token files go; it must hold none.
        pattern: Which files of a folder, such as `*.py`.
        shard_size: Bytes in a file, at least 1.

    Returns:
        The number of tokens of each fold.

    Raises:
        ValueError: nothing is there, or so little that a fold gets none.
    """
    if source.is_file():
        files = {source.name: source}
    elif source.is_dir():
        files = files_of(source, pattern)
    else:
        raise ValueError(f"{source} is no file and no folder; name a text or a folder of texts")
    parts = _dealt(files)
    for fold in FOLDS:
        if not any(stop - start for _, start, stop in parts[fold]):
            raise ValueError(f"{source} has too little text for a {fold} fold; give more")
    # The training fold comes last: without it a folder is not taken for a whole one.
    for fold in reversed(FOLDS):
        write_shards(_pieces(parts[fold]), folder, fold, vocab_size=256, shard_size=shard_size)
    return {fold: sum(stop - start for _, start, stop in parts[fold]) for fold in FOLDS}


def _dealt(files: Mapping[str, Path]) -> Parts:
    """Deal whole files by their content, or cut each where they are few, as `bytes` does."""
    parts: Parts = {fold: [] for fold in FOLDS}
    for name, path in files.items():
        size = path.stat().st_size
        if len(files) < FEW:
            for fold, (start, stop) in cuts(size).items():
                parts[fold].append((path, start, stop))
        else:
            content = (piece.tobytes() for piece in _pieces([(path, 0, size)]))
            parts[fold_of(name, content)].append((path, 0, size))
    return parts


def _pieces(parts: list[tuple[Path, int, int]]) -> Iterator[np.ndarray]:
    for path, start, stop in parts:
        for place in range(start, stop, PART):
            yield np.fromfile(path, np.uint8, min(PART, stop - place), offset=place)
