"""Tokens written to files of a limited size, each of which appears whole or not at all."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ....zoo.share.atomic_write import replacing
from .listing import LISTING, list_shards, read_listing
from .open_shard import TYPES

__all__ = ["write_shards"]


def write_shards(
    pieces: Iterable[Any],
    folder: str | Path,
    prefix: str,
    *,
    vocab_size: int,
    shard_size: int = 100_000_000,
) -> list[Path]:
    """Write pieces of a text as `PREFIX-00000.npy`, `PREFIX-00001.npy`, …, in the narrowest type.

    When all are written, `tokens.json` of the folder lists them: a text whose writing was
    interrupted is not taken for a whole one.

    Args:
        pieces: Tokens of one piece after another, such as documents: an array or a list of whole
            numbers each. A piece that does not fit into a file goes on in the next one.
        folder: Made if it is not there; it must hold no file of that prefix.
        prefix: What the names begin with, such as `train`, `validation` or `test`.
        vocab_size: Every token must lie below.
        shard_size: Tokens in a file, at least 1.

    Returns:
        The files.

    Raises:
        ValueError: a token outside the vocabulary, by its place; no token at all; a folder with
            such files, or of another vocabulary; a number out of range.
    """
    if not 1 <= vocab_size <= 2**32 or shard_size < 1:
        raise ValueError(
            f"write_shards needs 1 <= vocab_size <= 2**32 and shard_size >= 1, got "
            f"vocab_size={vocab_size}, shard_size={shard_size}"
        )
    folder = Path(folder)
    listed = _listed(folder, prefix, vocab_size)
    dtype = np.dtype(next(t for t in TYPES if np.iinfo(t).max >= vocab_size - 1))
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, int] = {}
    kept: list[np.ndarray] = []
    held = done = 0

    def write() -> None:
        path = folder / f"{prefix}-{len(files):05}.npy"
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate(kept), allow_pickle=False)
        files[path] = held

    for piece in pieces:
        tokens = np.asarray(piece)
        if not len(tokens):
            continue
        _check(tokens, vocab_size, done)
        done += len(tokens)
        tokens = tokens.astype(dtype)
        while len(tokens):
            now, tokens = np.split(tokens, [shard_size - held])
            kept.append(now)
            held += len(now)
            if held == shard_size:
                write()
                kept, held = [], 0
    if kept:
        write()
    if not files:
        raise ValueError(f"{folder}: there is no token to write to {prefix}; give more text")
    counts = {path.name: count for path, count in files.items()}
    list_shards(folder, vocab_size, {**listed, **counts})
    return list(files)


def _listed(folder: Path, prefix: str, vocab_size: int) -> dict[str, int]:
    """What the folder lists already.

    Raises:
        ValueError: files of the prefix, or tokens of another vocabulary.
    """
    if any(folder.glob(f"{prefix}-*.npy")):
        raise ValueError(
            f"{folder} holds files {prefix}-*.npy already; remove them, or give another folder"
        )
    before, shards = read_listing(folder) or (vocab_size, {})
    if before != vocab_size:
        raise ValueError(
            f"{folder / LISTING} lists tokens of a vocabulary of {before}, not of {vocab_size}; "
            f"give another folder"
        )
    return {name: count for name, count in shards.items() if not name.startswith(f"{prefix}-")}


def _check(tokens: np.ndarray, vocab_size: int, before: int) -> None:
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"tokens are whole numbers in one row, got {tokens.dtype} of shape {tokens.shape}"
        )
    wrong = (tokens < 0) | (tokens >= vocab_size)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"the token {tokens[first]} at {before + first} lies outside the vocabulary of "
            f"{vocab_size}; give the vocab_size of the tokenizer"
        )
