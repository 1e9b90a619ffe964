"""Two corpora as token files: six novels and the sources of Python's standard library.

Nothing of a held-out part is trained on. Of the sources whole files are held out, as the data set
`bytes` deals them; of each novel its last tenth. Held-out parts are thinned to 64 KiB each, in
blocks spread evenly over the part, so that both corpora weigh the same in a fold.

Set ARCHZOO_DATA to the folder with `austen/*.txt`.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from archzoo.train.data.corpus import (
    FOLDS,
    read_folder,
    read_standard_library,
    split_files,
    split_texts,
)
from archzoo.zoo.share import replacing

__all__ = ["CORPORA", "HELD_OUT", "NOVELS", "digest", "held_out", "thinned", "write_corpora"]

NOVELS = Path(os.environ.get("ARCHZOO_DATA", "/usr/share/archzoo")) / "austen"
CORPORA = ("novels", "sources")
HELD_OUT, BLOCK = 2**16, 2**10


def write_corpora(folder: Path) -> Path:
    """Write both corpora, one file a corpus and fold, and return the folder.

    Raises:
        ValueError: the novels are not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "novels": split_texts(read_folder(NOVELS, "*.txt")),
        "sources": split_files(read_standard_library()),
    }
    for corpus, folds in texts.items():
        for fold, text in folds.items():
            kept = text if fold == "train" else thinned(text, HELD_OUT)
            file = place(folder, corpus, fold)
            if not file.is_file() or file.read_bytes() != kept:
                with replacing(file) as whole:
                    whole.write_bytes(kept)
    return folder


def place(folder: Path, corpus: str, fold: str) -> Path:
    """The file of a corpus and a fold."""
    return folder / f"{corpus}-{fold}.bin"


def thinned(text: bytes, size: int) -> bytes:
    """Blocks of a text, spread evenly over it, of a size together.

    Raises:
        ValueError: the text is shorter than that.
    """
    if len(text) < size:
        raise ValueError(
            f"a held-out part has {len(text)} bytes, {size} are needed; give more text"
        )
    starts = range(size // BLOCK)
    last = len(text) - BLOCK
    return b"".join(text[s : s + BLOCK] for s in (last * i // (len(starts) - 1) for i in starts))


def held_out(folder: Path, fold: str) -> Mapping[str, bytes]:
    """The held-out part of each corpus."""
    return {corpus: place(folder, corpus, fold).read_bytes() for corpus in CORPORA}


def digest(folder: Path) -> str:
    """What tells these texts from others, such as those of another version of Python."""
    found = hashlib.sha256()
    for corpus in CORPORA:
        for fold in FOLDS:
            found.update(hashlib.sha256(place(folder, corpus, fold).read_bytes()).digest())
    return found.hexdigest()[:16]
