"""A checkpoint as a file: it is whole or it is not there, and it never runs code.

It is written beside its final name, flushed and renamed, and holds a digest of its content; it is
read with `weights_only=True`, so it can hold tensors, numbers and strings and never code. The
newest is `last.pt`, those before it `last-1.pt`, …; a run goes on from the newest whole one.
"""

import os
import pickle
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ....zoo.share.atomic_write import replacing
from ....zoo.share.content_digest import content_digest
from ...errors import RunError
from .resume import conflict

__all__ = ["checkpoints", "read_checkpoint", "read_newest", "write_checkpoint"]

# What three thousand damaged files made torch.load raise, and what a bad argument inside one would.
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
DIGEST = "digest"


def write_checkpoint(path: Path, state: Mapping[str, Any], keep: int = 1) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file.
        state: Nested mappings and sequences of tensors and plain values.
        keep: How many checkpoints stay, this one included: those before it are renamed.

    Raises:
        RunError: the disk refused; the file that was there is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrived = path.with_name(f"arrived{path.suffix}")
        with replacing(arrived) as temporary, open(temporary, "wb") as file:
            torch.save({**state, DIGEST: content_digest(state)}, file)
        _number_anew(path, keep)
        os.replace(arrived, path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError that hides the cause.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "the checkpoint before it is intact" if path.exists() else "none was there before"
        raise RunError(
            f"could not write {path}: {cause}; {kept}. Make room and go on with resume=auto"
        ) from error


def _number_anew(path: Path, keep: int) -> None:
    """Count the checkpoints before a new one up by one, and leave no more than fit beside it."""
    for number, file in reversed(list(enumerate(checkpoints(path), 1))):
        if number < keep:
            file.rename(path.with_name(f"{path.stem}-{number}{path.suffix}"))
        elif file != path:
            file.unlink()


def checkpoints(path: Path) -> list[Path]:
    """List `last.pt` and the checkpoints before it, the newest first."""
    number = re.compile(rf"{re.escape(path.stem)}-(\d+){re.escape(path.suffix)}")
    older = {int(m[1]): f for f in path.parent.glob("*") if (m := number.fullmatch(f.name))}
    return [*([path] if path.is_file() else []), *(older[n] for n in sorted(older))]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        RunError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise RunError(f"no checkpoint at {path}; start without resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        digest = state.pop(DIGEST, None)  # not there in files of earlier versions
    except DAMAGED as error:
        said = textwrap.shorten(str(error), 120, placeholder=" …")
        raise RunError(
            f"{path} is damaged or no checkpoint of ours ({type(error).__name__}: {said}); "
            f"remove it, or resume from another folder"
        ) from error
    if digest is not None and digest != content_digest(state):
        raise RunError(
            f"{path} is damaged: its content has another digest than when it was written; "
            f"remove it, or resume from another folder"
        )
    return state


def read_newest(
    path: Path, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Read the newest whole checkpoint of `last.pt` and those before it.

    Args:
        path: Of `last.pt`.
        config: Of the run; a checkpoint of another one is none.

    Returns:
        The state, and what was wrong with newer ones, a sentence each.

    Raises:
        RunError: there is none, or none is whole.
    """
    damaged: list[str] = []
    for candidate in checkpoints(path):
        try:
            state = read_checkpoint(candidate)
        except RunError as error:
            damaged.append(str(error))
            continue
        why = conflict(state.get("config", {}), config) if config else None
        if why is None:
            return state, damaged
        damaged.append(
            f"{candidate} is not of the run of config.yaml: {why}; bring the right file back"
        )
    if damaged:
        raise RunError(damaged[0])
    raise RunError(f"no checkpoint at {path}; start without resume")
