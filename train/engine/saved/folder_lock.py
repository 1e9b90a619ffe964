"""The lock of a run's folder: one process writes to it, and a dead one does not keep it.

The lock is the kernel's on the file `run.lock`, so it ends with the process that holds it, however
that ends; other machines see it where their file system carries `flock`. What stands in the file
says who that is, for the message of whoever comes second.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from ...errors import RunError

__all__ = ["FolderLock", "is_locked"]

PATIENCE = 10.0
"""Seconds given to the children of a dead process, which hold its lock until they notice."""


class FolderLock:
    """Exclusive use of a folder by this process, from the call until `release`.

    Args:
        folder: The folder, made where it is missing.

    Raises:
        RunError: another process uses the folder; the message names its host and process.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock."""
        self.folder, self.path = folder, folder / "run.lock"
        until = time.monotonic() + PATIENCE
        while not self._taken():
            holder = self._holder()
            os.close(self.file)
            if not _is_dead(holder) or time.monotonic() > until:
                raise RunError(
                    f"{folder} is used by process {holder.get('pid')} on {holder.get('host')} "
                    f"since {holder.get('since')}; wait for it, stop it, or name another run_dir"
                )
            time.sleep(0.1)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        try:
            os.ftruncate(self.file, 0)
            os.pwrite(self.file, json.dumps(about).encode(), 0)
        except OSError as error:
            os.close(self.file)
            raise RunError(f"cannot write to {self.path}: {error}; make room") from error

    def release(self) -> None:
        """Give the folder free; a child that outlives the run keeps no hold of it.

        A folder in which nothing was written goes.
        """
        os.ftruncate(self.file, 0)
        if self.path.is_file() and len(list(self.folder.iterdir())) == 1:
            self.path.unlink()
            with contextlib.suppress(OSError):  # somebody else has just written there
                self.folder.rmdir()
        fcntl.flock(self.file, fcntl.LOCK_UN)
        os.close(self.file)

    def _taken(self) -> bool:
        """Open the file and try to lock it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise RunError(f"cannot write to run_dir={self.folder}: {error}") from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # such as ENOLCK, of a network's file system without them
            os.close(self.file)
            raise RunError(
                f"cannot lock {self.path}: {error}; have its file system mounted with locks "
                f"(flock), or name a run_dir on another"
            ) from error
        # A lock on a file that its last owner has removed since keeps nobody out.
        if self.path.exists() and os.path.samestat(os.stat(self.path), os.fstat(self.file)):
            return True
        os.close(self.file)
        return self._taken()

    def _holder(self) -> dict[str, Any]:
        """Who wrote last into the file; empty while nobody has finished writing."""
        try:
            return dict(json.loads(os.pread(self.file, 4096, 0)))
        except (ValueError, TypeError):
            return {}


def is_locked(folder: Path) -> bool:
    """Whether a process uses a folder now."""
    try:
        file = os.open(folder / "run.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # nobody can tell, so nobody goes on with it
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is locked, or there are no locks to tell by
        return True
    finally:
        os.close(file)
    return False


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this host that is no more."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
