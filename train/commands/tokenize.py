"""Write the bytes of texts as token files, which `data=token_files` reads.

Texts and token files may be larger than memory. The files are dealt to the folds as those of
`data=bytes` are; another tokenizer's tokens are written by a loop of your own, see docs/scale.md:

    archzoo tokenize books data/books
    archzoo tokenize enwik9 data/enwik9 shard_size=50000000
    archzoo tokenize src data/src pattern=*.py --json
"""

from pathlib import Path

from ..command_line.answer import Answer
from ..data.shards import write_bytes
from ..errors import RunError, check_at_least_one

__all__ = ["tokenize"]


def tokenize(
    source: str, folder: str, *, pattern: str = "*", shard_size: int = 100_000_000
) -> Answer:
    """Write the bytes of texts as token files.

    Args:
        source: A text, or a folder of texts.
        folder: Where the token files go; it must hold none.
        pattern: Which files of a folder, such as *.py.
        shard_size: Bytes in a file at most.

    Raises:
        RunError: no such text, too little of it, or a folder with token files.
    """
    check_at_least_one(shard_size=shard_size)
    try:
        sizes = write_bytes(Path(source), Path(folder), pattern=pattern, shard_size=shard_size)
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    told = ", ".join(f"{size:,} {fold}" for fold, size in sizes.items())
    return Answer({"folder": folder, "vocab_size": 256, "tokens": sizes}, f"{folder}: {told}")
