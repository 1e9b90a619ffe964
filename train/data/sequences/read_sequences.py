"""Sequences of files: FASTA, or a table with a column for them; plain or packed by gzip."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from ....zoo.registry import nearest
from ..table_files import csv_lines

__all__ = ["FASTA", "TABLES", "Record", "read_sequences"]

FASTA = (".fasta", ".fa", ".faa", ".fna")
TABLES = {".csv": ",", ".tsv": "\t"}


class Record(NamedTuple):
    """One sequence of a file, as it stands there.

    Args:
        name: Where it stands, for messages.
        sequence: Its letters.
        label: Its class, or empty where none was asked for.
        cluster: Its declared cluster, or empty.
    """

    name: str
    sequence: str
    label: str = ""
    cluster: str = ""


def read_sequences(
    place: str,
    *,
    column: str = "sequence",
    target: str | None = None,
    cluster: str | None = None,
    name: str = "the file of sequences",
) -> list[Record]:
    """Read all sequences of a file, or of the FASTA files of a folder.

    A class is the cell of a column, by default the first that is neither the sequence nor the
    cluster. Of FASTA it is VALUE in `target=VALUE` of the header, by default the last word there;
    in a folder, by default the name of the file.

    Args:
        place: Path of a file or a folder.
        column: Of a table, the one with the letters.
        target: Name of what says the class; None as above, empty where no classes are read.
        cluster: Name of what says the cluster, likewise; None where nothing does.
        name: What is read, where it is not there.

    Raises:
        ValueError: there is nothing, or a file, a header or a cell that says too little.
    """
    path = Path(place)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if _ending(each) in FASTA)
        if not files:
            raise ValueError(
                f"{path.absolute()} holds no file *{', *'.join(FASTA)} or the same packed as .gz; "
                f"give data.root=…"
            )
    elif not path.is_file():
        raise ValueError(f"{name} was not found in {path.absolute()}; give data.root=…")
    else:
        files = [path]
    found: list[Record] = []
    for file in files:
        ending = _ending(file)
        if ending in TABLES:
            found += _table(file, TABLES[ending], column, target, cluster)
        elif ending in FASTA:
            whole = file.name.partition(".")[0] if path.is_dir() and target is None else None
            found += _fasta(file, target, cluster, whole)
        else:
            known = ", ".join((*FASTA, *TABLES))
            raise ValueError(f"{file} ends in none of {known}, with or without .gz; rename it")
    return found


def _ending(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _table(
    file: Path, delimiter: str, column: str, target: str | None, cluster: str | None
) -> list[Record]:
    """Read the rows of a table with a header.

    Raises:
        ValueError: a column that is not there, a row of another length, or an empty cell.
    """
    lines = csv_lines(file, delimiter)
    _, header = next(lines)
    if target is None:
        target = next((name for name in header if name not in (column, cluster)), None)
        if target is None:
            raise ValueError(f"{file} has no column beside {column!r} that says the class")
    places = {"column": column, "target": target or None, "cluster": cluster}
    for key, name in places.items():
        if name is not None and name not in header:
            raise ValueError(f"{file} has no column data.{key}={name}{nearest(name, header)}")
    found = []
    for number, cells in lines:
        where = f"{file}:{number}"
        if len(cells) != len(header):
            raise ValueError(f"{where} has {len(cells)} cells, not {len(header)}")
        row = dict(zip(header, cells, strict=True))
        said = [row[name] if name is not None else "" for name in places.values()]
        for name, cell in zip(places.values(), said, strict=True):
            if name is not None and not cell:
                raise ValueError(f"{where} has an empty cell in column {name!r}; fill it")
        found.append(Record(where, *said))
    if not found:
        raise ValueError(f"{file} holds no sequence; give a file with rows below its header")
    return found


def _fasta(file: Path, target: str | None, cluster: str | None, whole: str | None) -> list[Record]:
    """Read the records of a FASTA file, of one class if it is given whole.

    Raises:
        ValueError: letters before the first header, a header without letters or what it should say.
    """
    found: list[Record] = []
    header, parts = "", []

    def end() -> None:
        if not header:
            return
        words = header[1:].split()
        name = f"{file}: {words[0] if words else 'a record without a name'}"
        if not parts:
            raise ValueError(f"{name} has no letters; leave it out")
        label = "" if target == "" else whole or _said(words, target, "target", name)
        said = "" if cluster is None else _said(words, cluster, "cluster", name)
        found.append(Record(name, "".join(parts), label, said))

    for line in _lines(file):
        if line.startswith(">"):
            end()
            header, parts = line, []
        elif not line.startswith(";") and line:
            if not header:
                raise ValueError(f"{file} begins with {line[:20]!r}, not with a header '>NAME'")
            parts.append("".join(line.split()))
    end()
    if not found:
        raise ValueError(f"{file} is empty; give a file with a record '>NAME' and its letters")
    return found


def _said(words: list[str], key: str | None, option: str, name: str) -> str:
    """Find a value in the words of a header: that of `key=`, or the last word."""
    if key is None:
        if len(words) < 2:
            raise ValueError(
                f"{name} says no class; write it behind the name, or say data.{option}=KEY for "
                f"KEY=VALUE, or give a folder with a file of each class"
            )
        return words[-1]
    values = [word[len(key) + 1 :] for word in words if word.startswith(f"{key}=")]
    if not values or not values[0]:
        raise ValueError(f"{name} has no {key}=VALUE in its header, as data.{option}={key} asks")
    return values[0]


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text, packed or not.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with _opened(file) as text:
            for line in text:
                yield line.strip()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as FASTA in UTF-8: {error}") from error


def _opened(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig")  # type: ignore[return-value]
    return file.open(encoding="utf-8-sig")
