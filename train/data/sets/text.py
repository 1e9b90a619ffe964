"""Text as bytes: no tokenizer, a vocabulary of 256, and a corpus on every machine.

By default the text is the source of Python's standard library, which every installation has.
"""

import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

from ..corpus import FEW, read_folder, read_standard_library, split_files, split_texts
from ..data_set import Splits, data_sets
from ..fold_storage import TokenFold

__all__ = ["bytes"]


# A builder's name is the data set's name, so this one shadows the built-in, here only: nothing
# in this file needs that, and the package does not re-export builders.
@data_sets.register(kind="tokens", source="Python's sources, PSF licence", num_classes=256)
def bytes(*, path: str | None = None, pattern: str = "*.py", context_length: int = 256) -> Splits:
    """Bytes of text to predict, one after another.

    Whole files are dealt to the folds by a hash of path and content, 90 : 5 : 5 on average; where
    they are fewer than 20, or a fold came out too short, each is cut in that proportion. Training
    windows move by a random offset every epoch; evaluation predicts every byte once.

    Args:
        path: A file or a folder; None for the standard library of the running Python, whose
            text depends on its version.
        pattern: Which files of a folder, such as `*.py` or `*`.
        context_length: Bytes T in a window, at least 1.

    Raises:
        ValueError: nothing is there, or too little for a window in each fold.
    """
    facts: dict[str, object] = {"source": path or "Python's standard library"}
    if path is None:
        files = read_standard_library()
        facts["python"] = platform.python_version()
    elif Path(path).is_file():
        files = {Path(path).name: Path(path).read_bytes()}
    elif Path(path).is_dir():
        files = read_folder(Path(path), pattern)
    else:
        raise ValueError(f"bytes was not found in {Path(path).absolute()}; give data.path=…")
    texts = split_files(files)
    if len(files) < FEW or not all(len(text) > context_length for text in texts.values()):
        texts = split_texts(files)
    folds: dict[str, Any] = {}
    for name, text in texts.items():
        # A bytearray, because torch warns of buffers that cannot be written to; and the extra
        # byte, because it refuses empty ones.
        tokens = torch.frombuffer(bytearray(text + b"\n"), dtype=torch.uint8)[:-1]
        try:
            folds[name] = TokenFold(tokens, context_length, shifted=name == "train")
        except ValueError as error:
            raise ValueError(f"bytes, {name}: {error}") from error
    about = {
        **facts,
        "files": len(files),
        "sizes": {name: len(text) for name, text in texts.items()},
        "sha256": {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()},
    }
    return Splits("tokens", (context_length,), 256, **folds, about=about)
