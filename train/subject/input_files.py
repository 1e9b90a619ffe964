"""Files of a user's own as a trained model reads them: images, tables, sequences, text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import TokenFold
from ..data.evaluation_transform import read_image
from ..data.sequences.kmer_tokeniser import KmerTokeniser
from ..data.sequences.read_sequences import found_records
from ..data.sequences.setting_error import SettingError
from ..data.table_encoder import TableEncoder
from ..data.table_files import csv_lines, refuse_repeated_columns
from ..errors import RunError
from .conventions import conventions_of
from .given_data import kind_of

__all__ = ["Sample", "reads", "samples", "text_windows"]

BYTES = 256

COLUMN = "sequence"
"""The column of a table of a model that keeps none, as an earlier version saved it."""


class Sample(NamedTuple):
    """One input by its name, such as `cat.png` or `rows.csv:3`, or why it cannot be read."""

    name: str
    value: Tensor | ValueError


def reads(model: nn.Module) -> str:
    """Return what files a model reads: `image`, `rows`, `sequences` or `text`.

    Raises:
        RunError: it keeps no facts by which a file becomes an input.
    """
    kind, own = kind_of(model), conventions_of(model)
    if kind == "tokens":
        if getattr(model, "vocab_size", None) != BYTES:
            raise RunError(
                f"the model has a vocabulary of {getattr(model, 'vocab_size', 'unknown size')}; "
                f"text is read as bytes, of which there are {BYTES}"
            )
        return "text"
    if getattr(model, "names_tokens", False):
        raise RunError(
            "the model names hidden tokens and has no classes; train one with data=sequences and "
            "init= of this model"
        )
    if "tokeniser" in own:
        return "sequences"
    if "encoder" in own:
        return "rows"
    if kind == "image" or "input_size" in own:
        return "image"
    raise RunError(
        f"the model reads {kind} and does not keep how a file becomes one; "
        f"train it with data=tabular on a table or with data=sequences, or give images to a model "
        f"of images"
    )


def samples(model: nn.Module, files: list[str]) -> Iterator[Sample]:
    """Yield the inputs that files hold, in order: an image, or each row or sequence of a table.

    Args:
        model: Whose facts say how an input is made.
        files: Their paths.
    """
    facts: Any = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", {})
    kind = reads(model)
    for file in files:
        if kind == "rows":
            yield from _rows(file, TableEncoder.of(facts["encoder"]))
            continue
        if kind == "sequences":
            tokeniser = KmerTokeniser.of(facts["tokeniser"])
            column = facts.get("column", COLUMN)
            yield from _sequences(file, tokeniser, column, facts["input_size"][0])
            continue
        try:
            yield Sample(file, read_image(Path(file), facts))
        except ValueError as error:
            yield Sample(file, error)


def _rows(file: str, encoder: TableEncoder) -> Iterator[Sample]:
    """Yield the rows of a CSV file with a header; columns that the model does not know are none."""
    try:
        lines = csv_lines(Path(file))
        _, header = next(lines)
        refuse_repeated_columns(file, header)
        for number, cells in lines:
            name = f"{file}:{number}"
            try:
                if len(cells) != len(header):
                    raise ValueError(f"{len(cells)} cells, not {len(header)}")
                row = dict(zip(header, cells, strict=True))
                yield Sample(name, torch.from_numpy(encoder.encode_rows([row]))[0])
            except ValueError as error:
                yield Sample(name, ValueError(f"{name}: {error}"))
    except ValueError as error:
        yield Sample(file, error)


def _sequences(
    file: str, tokeniser: KmerTokeniser, column: str, context_length: int
) -> Iterator[Sample]:
    """Yield the sequences of a FASTA file or of a column of a table."""
    try:
        records = found_records(file, column=column, target="")
    except ValueError as error:
        yield Sample(file, _plain(error))
        return
    for record in records:
        try:
            if record.fault:
                raise ValueError(f"{record.name} {record.fault}")
            tokens = tokeniser.encode(record.sequence, record.name)[:context_length]
            yield Sample(record.name, torch.from_numpy(tokens).long())
        except ValueError as error:
            yield Sample(record.name, _plain(error))


def _plain(error: ValueError) -> ValueError:
    """Leave out what a data set could be told and a model cannot."""
    return ValueError(error.plain) if isinstance(error, SettingError) else error


def text_windows(file: str, context_length: int) -> tuple[TokenFold, Tensor]:
    """Read a text as windows to predict, every byte once, and the last context before its end.

    Args:
        file: Its path.
        context_length: Bytes in a window.

    Returns:
        The windows, and the context of the next byte (1, at most context_length).

    Raises:
        ValueError: the file cannot be read, or holds nothing.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not content:
        raise ValueError(f"{file} holds no text")
    tokens = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    fold = TokenFold(tokens, context_length)
    return fold, fold.tokens[-context_length:].long()[None]
