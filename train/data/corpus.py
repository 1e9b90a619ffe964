"""A text cut into three folds, whole files at a time, the same way everywhere."""

import fnmatch
import hashlib
import os
import sysconfig
from collections.abc import Collection, Mapping
from pathlib import Path

__all__ = ["read_folder", "read_standard_library", "split_files", "split_texts"]

FOLDS = ("train", "validation", "test")

# Neither tests nor other people's packages nor files that the build wrote belong to the text.
_OUTSIDE = frozenset(
    ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
)
_WRITTEN_BY_THE_BUILD = "_sysconfigdata"


def read_folder(folder: Path, pattern: str, *, outside: Collection[str] = ()) -> dict[str, bytes]:
    """Read every file below a folder whose name matches a shell pattern and begins with no dot.

    Args:
        folder: Where to look, at any depth.
        pattern: Such as `*.py`.
        outside: Names of folders to leave out.

    Returns:
        Contents by path relative to the folder, sorted by path.

    Raises:
        ValueError: no file matches, or one cannot be read.
    """
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [n for n in folders if n not in outside and not n.startswith(".")]
        shown = [name for name in files if not name.startswith(".")]
        paths += [Path(parent, name) for name in fnmatch.filter(shown, pattern)]
    if not paths:
        raise ValueError(f"{folder} holds no file named {pattern!r}; give data.pattern=…")
    contents = {path.relative_to(folder).as_posix(): _read(path) for path in paths}
    return dict(sorted(contents.items()))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}; mend or remove the file") from error


def read_standard_library() -> dict[str, bytes]:
    """Read the sources of the running Python's standard library, without its tests."""
    files = read_folder(Path(sysconfig.get_path("stdlib")), "*.py", outside=_OUTSIDE)
    return {
        path: content
        for path, content in files.items()
        if not path.startswith(_WRITTEN_BY_THE_BUILD)
    }


def split_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Deal whole files to the folds: 90 % train, 5 % validation, 5 % test, on average.

    A file's fold is a function of its path and content, so another file coming or going moves
    none of the rest.

    Args:
        files: Contents by relative path.

    Returns:
        The joined contents of each fold, in the order given.
    """
    parts: dict[str, list[bytes]] = {fold: [] for fold in FOLDS}
    for path, content in files.items():
        digest = hashlib.sha256(path.encode() + b"\0" + content).digest()
        twentieth = int.from_bytes(digest[:8], "big") * 20 >> 64
        parts[{0: "test", 1: "validation"}.get(twentieth, "train")].append(content)
    return {fold: b"".join(contents) for fold, contents in parts.items()}


def split_texts(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Cut each file in three: its first 90 % train, the next 5 % validate, the rest tests.

    Args:
        files: Contents by relative path.

    Returns:
        The joined parts of each fold, in the order given.
    """
    parts: dict[str, list[bytes]] = {fold: [] for fold in FOLDS}
    for content in files.values():
        first, second = len(content) * 18 // 20, len(content) * 19 // 20
        cuts = (content[:first], content[first:second], content[second:])
        for fold, cut in zip(FOLDS, cuts, strict=True):
            parts[fold].append(cut)
    return {fold: b"".join(contents) for fold, contents in parts.items()}
