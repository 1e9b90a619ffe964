"""The list of a folder of token files, `tokens.json`: vocabulary, and the tokens of each file."""

import json
from collections.abc import Mapping
from pathlib import Path

from ....zoo.share.atomic_write import replacing

__all__ = ["LISTING", "Listing", "list_shards", "read_listing"]

LISTING = "tokens.json"

Listing = tuple[int, dict[str, int]]
"""Size of the vocabulary, and number of tokens by file name."""


def read_listing(folder: Path) -> Listing | None:
    """What a folder's list tells; None where there is none.

    Raises:
        ValueError: a list that cannot be read.
    """
    path = folder / LISTING
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        vocab_size, shards = found["vocab_size"], found["shards"]
        if type(vocab_size) is int and all(type(count) is int for count in shards.values()):
            return vocab_size, dict(shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read: {error!r}; remove it and give data.vocab_size"
        ) from error
    raise ValueError(f"{path} holds no whole numbers; remove it and give data.vocab_size")


def list_shards(folder: Path, vocab_size: int, shards: Mapping[str, int]) -> None:
    """Write the list of a folder, whole or not at all.

    Args:
        folder: Where the files are.
        vocab_size: Of the tokenizer.
        shards: Number of tokens by file name.
    """
    text = json.dumps({"vocab_size": vocab_size, "shards": dict(sorted(shards.items()))}, indent=2)
    with replacing(folder / LISTING) as temporary:
        temporary.write_text(text + "\n")
