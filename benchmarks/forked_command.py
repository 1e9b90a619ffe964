"""A command of archzoo in a forked child: a real call of its `main()` without seconds of imports.

The caller imports what the command needs, starts no thread, and calls `call` as often as it likes.
Each child has its own process group, working folder and arguments, and writes to files.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Ended", "call"]

CRASHED = 70
"""Exit code of an exception that nobody caught, that of EX_SOFTWARE in sysexits.h."""


@dataclass(frozen=True)
class Ended:
    """How a call of a command ended: its exit code, both its outputs and its seconds.

    The code is minus a signal's number where that ended it; SIGKILL means the time limit.
    """

    code: int
    output: str
    errors: str
    seconds: float


def call(
    command: str, main: Callable[[], Any], arguments: Sequence[str], folder: Path, limit: float
) -> Ended:
    """Call a command's `main()` in a child of this process.

    Args:
        command: Its name on the command line.
        main: What the name stands for.
        arguments: Those of the command line.
        folder: Where it runs and where `out.txt` and `err.txt` are written.
        limit: Seconds until it is killed.
    """
    started = time.perf_counter()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _be(command, main, arguments, folder)
    status = 0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.perf_counter() - started > limit:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    return Ended(
        os.waitstatus_to_exitcode(status),
        (folder / "out.txt").read_text(errors="replace"),
        (folder / "err.txt").read_text(errors="replace"),
        time.perf_counter() - started,
    )


def _be(command: str, main: Callable[[], Any], arguments: Sequence[str], folder: Path) -> None:
    """Become the command; never returns."""
    code = CRASHED
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        torch.set_num_threads(1)
        sys.argv = [command, *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # what the interpreter would do, in a child that must not return
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
