"""A text cut into three folds, whole files at a time, the same way everywhere."""

import fnmatch
import hashlib
import itertools
import os
import sysconfig
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

__all__ = [
    "FEW",
    "FOLDS",
    "cuts",
    "files_of",
    "fold_of",
    "read_folder",
    "read_standard_library",
    "split_files",
    "split_texts",
]

FOLDS = ("train", "validation", "test")

FEW = 20
"""Files too few to deal whole: on average less than one would test."""

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
    return {name: _read(path) for name, path in files_of(folder, pattern, outside).items()}


def files_of(folder: Path, pattern: str, outside: Collection[str] = ()) -> dict[str, Path]:
    """The files that `read_folder` reads, by path relative to the folder, sorted.

    Raises:
        ValueError: no file matches.
    """
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [n for n in folders if n not in outside and not n.startswith(".")]
        shown = [name for name in files if not name.startswith(".")]
        paths += [Path(parent, name) for name in fnmatch.filter(shown, pattern)]
    if not paths:
        raise ValueError(f"{folder} holds no file named {pattern!r}; give data.pattern=…")
    return dict(sorted((path.relative_to(folder).as_posix(), path) for path in paths))


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
        parts[fold_of(path, [content])].append(content)
    return {fold: b"".join(contents) for fold, contents in parts.items()}


def fold_of(path: str, content: Iterable[bytes]) -> str:
    """The fold that a file is dealt to, from its relative path and its content in parts."""
    digest = hashlib.sha256(path.encode() + b"\0")
    for part in content:
        digest.update(part)
    twentieth = int.from_bytes(digest.digest()[:8], "big") * 20 >> 64
    return {0: "test", 1: "validation"}.get(twentieth, "train")


def split_texts(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Cut each file in three: its first 90 % train, the next 5 % validate, the rest tests.

    Args:
        files: Contents by relative path.

    Returns:
        The joined parts of each fold, in the order given.
    """
    parts: dict[str, list[bytes]] = {fold: [] for fold in FOLDS}
    for content in files.values():
        for fold, (start, stop) in cuts(len(content)).items():
            parts[fold].append(content[start:stop])
    return {fold: b"".join(contents) for fold, contents in parts.items()}


def cuts(size: int) -> dict[str, tuple[int, int]]:
    """Where a text of a size is cut: the first place of each fold, and the one after its last."""
    places = (0, size * 18 // 20, size * 19 // 20, size)
    return dict(zip(FOLDS, itertools.pairwise(places), strict=True))
