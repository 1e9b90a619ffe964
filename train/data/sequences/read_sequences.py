"""Sequences of files: FASTA, or a table with a column for them; plain or packed by gzip."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ....zoo.registry import nearest
from ..table_files import UNREADABLE, csv_lines, is_packed, open_text, refuse_repeated_columns
from .setting_error import NoClassError, SettingError

__all__ = ["FASTA", "TABLES", "Record", "found_records", "read_sequences"]

FASTA = (".fasta", ".fa", ".faa", ".fna")
TABLES = {".csv": ",", ".tsv": "\t"}

KEY = re.compile(r"[^\W\d][\w.-]*=")
"""How a word of a header begins that says KEY=VALUE."""


class Record(NamedTuple):
    """One sequence of a file, as it stands there.

    Args:
        name: Where it stands, for messages.
        sequence: Its letters.
        label: Its class, or empty where none was asked for.
        cluster: Its declared cluster, or empty.
        said_by: What says the class, for messages, or empty.
        fault: Why it cannot be read, to be put behind its name; empty where it can.
    """

    name: str
    sequence: str
    label: str = ""
    cluster: str = ""
    said_by: str = ""
    fault: str = ""


def read_sequences(
    place: str,
    *,
    column: str = "sequence",
    target: str | None = None,
    cluster: str | None = None,
    name: str = "the file of sequences",
) -> list[Record]:
    """Read all sequences of a file, or of the FASTA files of a folder.

    A class is the cell of a column, by default the first with a name that is neither the sequence
    nor the cluster. Of FASTA it is VALUE in `target=VALUE` of the header, up to the next KEY=, by
    default the last word there; in a folder, by default the name of the file without its ending.

    Args:
        place: Path of a file or a folder.
        column: Of a table, the one with the letters.
        target: Name of what says the class; None as above, empty where no classes are read.
        cluster: Name of what says the cluster, likewise; None where nothing does.
        name: What is read, where it is not there.

    Raises:
        ValueError: there is nothing, or a file, a header or a cell that says too little.
    """
    found = found_records(place, column=column, target=target, cluster=cluster, name=name)
    for record in found:
        if record.fault:
            raise ValueError(f"{record.name} {record.fault}")
    return found


def found_records(
    place: str,
    *,
    column: str = "sequence",
    target: str | None = None,
    cluster: str | None = None,
    name: str = "the file of sequences",
) -> list[Record]:
    """Read as `read_sequences` does, and keep records that cannot be read beside those that can.

    Raises:
        ValueError: as there, but for a record or a row alone.
    """
    path = Path(place)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if _is_fasta(each))
        if not files:
            plain = (
                f"{path.absolute()} holds no file *{', *'.join(FASTA)} or the same packed as .gz"
            )
            raise SettingError(f"{plain}; give data.root=…", plain)
    elif not path.is_file():
        plain = f"{name} was not found in {path.absolute()}"
        raise SettingError(f"{plain}; give data.root=…", plain)
    else:
        files = [path]
    whole: dict[str, Path] = {}
    found: list[Record] = []
    for file in files:
        ending = _ending(file)
        if ending in TABLES:
            found += _table(file, TABLES[ending], column, target, cluster)
        elif ending in FASTA:
            own = None
            if path.is_dir() and target is None:
                own = _without_ending(file)
                if (first := whole.setdefault(own, file)) is not file:
                    raise ValueError(
                        f"{first.name} and {file.name} in {path.absolute()} are both of the class "
                        f"{own!r}; join them, or rename one"
                    )
            found += _fasta(file, target, cluster, own)
        else:
            known = ", ".join((*FASTA, *TABLES))
            raise ValueError(f"{file} ends in none of {known}, with or without .gz; rename it")
    return found


def _is_fasta(file: Path) -> bool:
    """Whether a file of a folder has sequences; hidden ones are copies that a system makes."""
    return not file.name.startswith(".") and _ending(file) in FASTA


def _ending(file: Path) -> str:
    return Path(file.stem if is_packed(file) else file.name).suffix.lower()


def _without_ending(file: Path) -> str:
    """The name of a FASTA file, such as E.coli of E.coli.faa.gz."""
    return Path(file.stem if is_packed(file) else file.name).stem


def _table(
    file: Path, delimiter: str, column: str, target: str | None, cluster: str | None
) -> list[Record]:
    """Read the rows of a table with a header.

    Raises:
        ValueError: no or two columns of a name.
    """
    lines = csv_lines(file, delimiter)
    _, header = next(lines)
    names = [name for name in header if name]  # an index that pandas wrote has none
    refuse_repeated_columns(file, names)
    if target is None:
        target = next((name for name in names if name not in (column, cluster)), None)
        if target is None:
            plain = f"{file} has no column beside {column!r} that says the class"
            raise NoClassError(f"{plain}; add one", f"{plain}; add one")
    places = {"column": column, "target": target or None, "cluster": cluster}
    for key, name in places.items():
        if name is not None and name not in names:
            tail = nearest(name, names)
            raise SettingError(
                f"{file} has no column data.{key}={name}{tail}",
                f"{file} has no column {name!r}{tail}",
            )
    said_by = f"column {target!r}" if target else ""
    found = []
    for number, cells in lines:
        where = f"{file}:{number}"
        if len(cells) != len(header):
            fault = f"has {len(cells)} cells, not {len(header)}"
            found.append(Record(where, "", fault=fault))
            continue
        row = dict(zip(header, cells, strict=True))
        said = [row[name] if name is not None else "" for name in places.values()]
        fault = ""
        for name, cell in zip(places.values(), said, strict=True):
            if name is not None and not cell:
                fault = fault or f"has an empty cell in column {name!r}; fill it"
            elif len(cell.splitlines()) > 1:
                # A quote that nothing ends runs on to the next one, and swallows the rows between.
                fault = fault or f"has a line break in column {name!r}; mend its quotes"
        found.append(Record(where, *said, said_by=said_by, fault=fault))
    if not found:
        raise ValueError(f"{file} holds no sequence; give a file with rows below its header")
    return found


def _fasta(file: Path, target: str | None, cluster: str | None, whole: str | None) -> list[Record]:
    """Read the records of a FASTA file, of one class if it is given whole.

    Raises:
        ValueError: letters before the first header, or a header without what it should say.
    """
    found: list[Record] = []
    header, parts = "", []
    if whole is not None:
        said_by = "the name of a file"
    elif target is None:
        said_by = "the last word of a header"
    else:
        said_by = f"{target}= of a header" if target else ""

    def end() -> None:
        if not header:
            return
        words = header[1:].split()
        name = f"{file}: {words[0] if words else 'a record without a name'}"
        fault = "" if parts else "has no letters; leave it out"
        label = "" if target == "" or fault else whole or _said(words, target, "target", name)
        said = "" if cluster is None or fault else _said(words, cluster, "cluster", name)
        found.append(Record(name, "".join(parts), label, said, said_by, fault))

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
    """Find a value in the words of a header: what is behind `key=`, or the last word."""
    if key is None:
        if len(words) < 2:
            plain = f"{name} says no class; write it behind the name"
            raise NoClassError(
                f"{plain}, or say data.{option}=KEY for KEY=VALUE, or give a folder with a file of "
                f"each class",
                plain,
            )
        return words[-1]
    value: list[str] = []
    inside = False
    for word in words:
        if word.startswith(f"{key}="):
            if value:
                break
            inside = True
            value.append(word[len(key) + 1 :])
        elif KEY.match(word):
            inside = False
        elif inside:
            value.append(word)
    if not any(value):
        raise ValueError(f"{name} has no {key}=VALUE in its header, as data.{option}={key} asks")
    return " ".join(value).strip()


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text, packed or not.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with open_text(file) as text:
            for line in text:
                yield line.strip()
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as FASTA in UTF-8: {error}") from error
