"""A file of tokens, mapped into memory: the system reads its pages when they are asked for.

Three formats, told apart by their content:

    .npy    NumPy's: type and number of tokens stand in the file
    .bin    of llm.c: 256 numbers of four bytes, the first three of them a magic number, a version
            and the number of tokens; then the tokens
    .bin    of nanoGPT: the tokens and nothing else, so their type must be given

Source of the second: karpathy/llm.c, `dev/data/data_common.py`.
"""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SUFFIXES", "TYPES", "Shard", "open_shard"]

SUFFIXES = (".npy", ".bin")
TYPES = ("uint8", "uint16", "uint32")

_HEADER = 256 * 4  # bytes
# Magic number and version of llm.c's files of GPT-2's and of Llama 3's tokens.
_MAGIC = {(20240520, 1): "uint16", (20240801, 7): "uint32"}


class Shard:
    """One file of tokens.

    What a process has mapped stays what it was when a new file takes the place of the old one, as
    `write_shards` puts it there. A copy in another process maps the file again.

    Args:
        path: The file.
        dtype: Type of a token where the file does not say it.

    Attributes:
        tokens: The mapped tokens, shape (size,).

    Raises:
        ValueError: an empty file, one that was cut off, or one of no such format or type.
    """

    def __init__(self, path: Path, dtype: str | None = None) -> None:
        """Map the file; no token is read."""
        self.path, self._dtype = path, dtype
        self.tokens = _mapped(path, dtype)

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.tokens)

    def __reduce__(self) -> Any:
        """Pickle the name only: NumPy would write every token of a mapped file."""
        return Shard, (self.path, self._dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a copy of some tokens as int64."""
        return self.tokens[start:stop].astype(np.int64)


def open_shard(path: Path, dtype: str | None = None) -> Shard:
    """Map a file of tokens.

    Args:
        path: The file.
        dtype: `uint8`, `uint16` or `uint32`; None where the file says it.

    Raises:
        ValueError: in one line, naming the file and what to do.
    """
    try:
        return Shard(path, dtype)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; mend or remove it") from error


def _mapped(path: Path, dtype: str | None) -> np.ndarray:
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path} is empty; remove it or write it again")
    tokens = _mapped_npy(path) if path.suffix == ".npy" else _mapped_bin(path, dtype, size)
    if dtype is not None and tokens.dtype != np.dtype(dtype):
        raise ValueError(
            f"{path} holds {tokens.dtype} by its own word, not data.dtype={dtype}; leave it out"
        )
    if not len(tokens):
        raise ValueError(f"{path} holds no tokens; remove it or write it again")
    return tokens


def _mapped_npy(path: Path) -> np.ndarray:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{path} is no whole .npy file: {said}; write it again") from error
    if not isinstance(tokens, np.memmap):
        tokens.close()
        raise ValueError(f"{path} is no .npy file but another of NumPy's; write one array into it")
    kind = tokens.dtype
    if tokens.ndim != 1 or kind.kind not in "iu" or kind == np.dtype("uint64"):
        raise ValueError(
            f"{path} holds {kind} of shape {tokens.shape}; tokens are whole numbers in one row, "
            f"such as {', '.join(TYPES)}"
        )
    _check_length(path, tokens.offset + tokens.nbytes)
    return tokens


def _mapped_bin(path: Path, dtype: str | None, size: int) -> np.ndarray:
    head = np.fromfile(path, "<i4", 3)
    known = _MAGIC.get((int(head[0]), int(head[1]))) if size >= _HEADER else None
    if known is not None:
        _check_length(path, _HEADER + int(head[2]) * np.dtype(known).itemsize)
        count, offset = int(head[2]), _HEADER
        return np.memmap(path, known, "r", offset, (count,)) if count else np.empty(0, known)
    if dtype is None:
        raise ValueError(
            f"{path} does not say its type; give data.dtype, one of {', '.join(TYPES)}"
        )
    width = np.dtype(dtype).itemsize
    if size % width:
        raise ValueError(
            f"{path} has {size} bytes, which are no whole number of {dtype} tokens: it was cut "
            f"off, or data.dtype is another; write it again"
        )
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r")


def _check_length(path: Path, told: int) -> None:
    size = path.stat().st_size
    if size != told:
        what = "was cut off" if size < told else "goes on behind its end"
        raise ValueError(
            f"{path} {what}: it has {size} bytes and its header tells {told}; write it again"
        )
