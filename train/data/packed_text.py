"""Texts of files, plain or packed by gzip."""

import gzip
import zlib
from pathlib import Path
from typing import TextIO, cast

__all__ = ["UNREADABLE", "is_packed", "open_text"]

UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)
"""What a file raises that is not there, was cut off, is damaged, or is no text in UTF-8."""


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
