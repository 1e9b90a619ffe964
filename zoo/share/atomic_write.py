"""Write a file so that a crash, a full disk or a second writer never leaves half of it."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["remove_unfinished", "replacing"]

SUFFIX = ".unfinished"
OF_SAFETENSORS = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""What safetensors writes to, beside the file that it was given, before it renames."""


@contextlib.contextmanager
def replacing(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it.

    A rename within a folder is atomic, so a reader sees the old file or the new one. On any error
    the temporary file goes and what stood at `path` stays. The temporary name is drawn, and the
    file made by this call, so that no link that someone put there is followed.

    Args:
        path: The file.
        new: Whether nothing may stand at `path`, not even what came there meanwhile. The file
            system has to know hard links.

    Raises:
        FileExistsError: something does.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{SUFFIX}")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = os.fstat(handle).st_mode  # the user's umask; a library may write with another
    os.close(handle)
    try:
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if new:
            os.link(temporary, path)  # a rename would put the file in place of another
            temporary.unlink()
        else:
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself reaches the disk with the folder.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of their writes; only for the owner of a folder."""
    for temporary in folder.glob(".*"):
        if temporary.name.endswith(SUFFIX) or OF_SAFETENSORS.fullmatch(temporary.name):
            temporary.unlink(missing_ok=True)
