"""Tokens of files that need not fit into memory: a text of any size, in any vocabulary.

A step reads the windows of its batch and nothing else. What it reads is a function of the seed and
of the step's number, so a run that goes on needs no more than its position.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from ..data_set import Splits, data_sets
from ..shards import ShardFold, Span
from ..shards.listing import LISTING, read_listing
from ..shards.open_shard import SUFFIXES, Shard, open_shard

__all__ = ["token_files"]

NAMED = {
    "validation": re.compile(r"(^|[-_.])(val|valid|validation)(?=[-_.\d])"),
    "test": re.compile(r"(^|[-_.])test(?=[-_.\d])"),
}
"""What names of held-out files have in them; all others are learned from."""

BLOCKS, BLOCK = 16, 4096
"""How many pieces of a file, of how many tokens, tell it from another."""


@data_sets.register(kind="tokens", source="files of your own")
def token_files(
    *,
    root: str = "data/tokens",
    dtype: Literal["uint8", "uint16", "uint32"] | None = None,
    vocab_size: int | None = None,
    context_length: int = 1024,
    order: Literal["shuffled", "random", "sequential"] = "shuffled",
    held_out: float = 0.01,
    evaluated_tokens: int | None = None,
) -> Splits:
    """Token files to predict the next token of, mapped into memory.

    A file with `val`, `valid` or `validation` in its name validates, one with `test` tests, as
    `train.bin` and `val.bin` do, or `fineweb_val_000000.bin`; a word ends at a dot, a dash, an
    underscore or a digit. Where no file tests, the second half of the validation files does; where
    none validates, the end of the training files does, and of that the second half tests.

    Args:
        root: A file or a folder of `.npy` and `.bin` files; `archzoo tokenize` writes one.
        dtype: Type of a token in `.bin` files without a header, such as nanoGPT's uint16.
        vocab_size: Size of the vocabulary; None where the folder's `tokens.json` has it.
        context_length: Tokens T in a window, at least 1.
        order: `shuffled` visits nearly every token once an epoch, `random` draws every window from
            anywhere, `sequential` reads from the first token to the last.
        held_out: Share of the training files that each missing fold takes, in (0, 0.5).
        evaluated_tokens: How many tokens of the validation and of the test fold are read at most,
            the first ones; None for all.

    Raises:
        ValueError: nothing is there, a file that was cut off or is of no such format, or too few
            tokens for a window in each fold.
    """
    if not 0.0 < held_out < 0.5:
        raise ValueError(f"held_out must lie in (0, 0.5), got {held_out}")
    if evaluated_tokens is not None and evaluated_tokens <= context_length:
        raise ValueError(
            f"evaluated_tokens must be more than context_length={context_length}, got "
            f"{evaluated_tokens}"
        )
    place = Path(root)
    files = _files(place)
    shards = [open_shard(file, dtype) for file in files]
    vocabulary = _vocabulary(place, shards, vocab_size)
    spans = _dealt(shards, held_out)
    if evaluated_tokens is not None:
        for fold in ("validation", "test"):
            spans[fold] = _cut(spans[fold], 0, evaluated_tokens)
    folds: dict[str, Any] = {}
    for name, found in spans.items():
        try:
            folds[name] = ShardFold(
                found,
                context_length,
                vocab_size=vocabulary,
                order=order if name == "train" else "evaluation",
            )
        except ValueError as error:
            raise ValueError(f"token_files, {name}: {error}") from error
    about = {
        "source": root,
        "files": len(files),
        "sizes": {name: sum(span.size for span in found) for name, found in spans.items()},
        # Of pieces of each file: reading a terabyte takes an hour.
        "sha256": {name: _digest(found) for name, found in spans.items()},
    }
    return Splits("tokens", (context_length,), vocabulary, **folds, about=about)


def _files(place: Path) -> list[Path]:
    """The token files of a path, sorted by name.

    Raises:
        ValueError: there is none.
    """
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise ValueError(f"{place} ends in neither {' nor '.join(SUFFIXES)}; give data.root=…")
        return [place]
    found = sorted(
        file
        for file in (place.iterdir() if place.is_dir() else ())
        if file.suffix in SUFFIXES and not file.name.startswith(".")
    )
    if not found:
        raise ValueError(
            f"token_files was not found in {place.absolute()}: there is no file "
            f"{' or '.join('*' + s for s in SUFFIXES)}; archzoo tokenize writes some, or give "
            f"data.root=…"
        )
    return found


def _vocabulary(place: Path, shards: list[Shard], given: int | None) -> int:
    """The size of the vocabulary, given or listed.

    Raises:
        ValueError: it is neither; or the folder's list and its files differ.
    """
    folder = place if place.is_dir() else place.parent
    listing = read_listing(folder)
    if listing is not None and place.is_dir():
        found = {shard.path.name: len(shard) for shard in shards}
        differing = sorted({name for name, _ in found.items() ^ listing[1].items()})
        if differing:
            raise ValueError(
                f"{folder / differing[0]} is not as {LISTING} lists it: the folder was not written "
                f"to its end, or changed since; write it again, or remove {LISTING}"
            )
    if given is not None and given < 1:
        raise ValueError(f"vocab_size must be at least 1, got {given}")
    if given is not None:
        return given
    if listing is None:
        raise ValueError(
            f"{folder} holds no {LISTING}; give data.vocab_size, as 50257 of GPT-2's tokens"
        )
    return listing[0]


def _dealt(shards: list[Shard], held_out: float) -> dict[str, list[Span]]:
    """The spans of each fold."""
    folds: dict[str, list[Span]] = {"train": [], "validation": [], "test": []}
    for shard in shards:
        name = next((f for f, word in NAMED.items() if word.search(shard.path.name)), "train")
        folds[name].append(Span(shard, 0, len(shard)))
    total = _size(folds["train"])
    share = int(total * held_out)
    if not folds["validation"]:
        first = total - share * (1 if folds["test"] else 2)
        folds["validation"] = _cut(folds["train"], first, first + share)
        folds["test"] = folds["test"] or _cut(folds["train"], first + share, total)
        folds["train"] = _cut(folds["train"], 0, first)
    elif not folds["test"]:
        given = folds["validation"]
        half = _size(given) // 2
        folds["validation"], folds["test"] = _cut(given, 0, half), _cut(given, half, _size(given))
    return folds


def _size(spans: list[Span]) -> int:
    return sum(span.size for span in spans)


def _cut(spans: list[Span], start: int, stop: int) -> list[Span]:
    """The tokens from `start` to before `stop`, counted through all spans."""
    found, before = [], 0
    for span in spans:
        first, last = max(start - before, 0), min(stop - before, span.size)
        if first < last:
            found.append(Span(span.shard, span.start + first, span.start + last))
        before += span.size
    return found


def _digest(spans: list[Span]) -> str:
    digest = hashlib.sha256()
    for span in spans:
        digest.update(f"{span.size}\n".encode())
        for i in range(BLOCKS):
            start = span.start + max(0, span.size - BLOCK) * i // (BLOCKS - 1)
            digest.update(span.shard.read(start, min(start + BLOCK, span.stop)).tobytes())
    return digest.hexdigest()
