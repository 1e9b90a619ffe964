"""The trainer's command in children of one process that has imported everything already.

A fresh interpreter spends seconds on torch, timm and Hydra; a forked child begins at once, so that
a thousand starts take minutes. A child has a process group, a session's worth of output in a file
and the arguments of its own, and calls `archzoo.train.__main__.main` as the command does. What it
does at a moment stands in memory that it shares with this process.
"""

import contextlib
import importlib
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["PHASES", "Attempt", "Board", "prepare", "start_forked", "start_fresh"]

PHASES = ("starting", "training", "saving", "evaluating", "finishing")
"""What a run does; `finishing` is from the last step on: the test, the final files, the result."""

IMPORTS = (
    *("archzoo.train.__main__", "archzoo.train.commands.train", "archzoo.train.run", "geoopt"),
    *("timm.optim", "timm.utils"),
    *("timm.data", "sklearn.datasets", "torchmetrics", "torch.utils.tensorboard"),
    *("tensorboard.backend.event_processing.event_accumulator", "torch.distributed"),
    *("hydra._internal.core_plugins.basic_launcher", "optuna", "torchvision.transforms.v2"),
)


class Board:
    """The phase of a run and its saves so far, in memory shared with children."""

    def __init__(self) -> None:
        """Map it before any child is made."""
        self.memory = mmap.mmap(-1, 16)

    def write(self, phase: str, saves: int, seconds: float) -> None:
        """Note the phase, the number of saves begun, and how long the last one took."""
        struct.pack_into("=iid", self.memory, 0, PHASES.index(phase), saves, seconds)

    def read(self) -> tuple[str, int, float]:
        """What was noted last."""
        phase, saves, seconds = struct.unpack_from("=iid", self.memory, 0)
        return PHASES[phase], saves, seconds


class Attempt:
    """One start of the command: one process, or one a rank, with whatever they start.

    Args:
        pids: The processes, the first of which leads the group of all.
        log: Where their output goes.
    """

    def __init__(self, pids: Sequence[int], log: Path) -> None:
        """None has ended."""
        self.pids, self.log = list(pids), log
        self.codes: dict[int, int] = {}
        self.began = time.monotonic()

    def ended(self) -> bool:
        """Whether every process has; `codes` holds how."""
        for pid in self.pids:
            if pid not in self.codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.pids)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; return whether it came in time."""
        until = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    def kill_group(self) -> None:
        """Kill the group; workers that load data have groups of their own and are left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pids[0], signal.SIGKILL)
        self.wait(60)

    def kill_tree(self) -> None:
        """Kill the processes and all that they started, as a machine that goes down does."""
        for pid in [p for root in self.pids for p in descendants(root)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill_group()

    def kill_rank(self, rank: int) -> None:
        """Kill one rank; the others are told to end, as torchrun does, and killed if they stay."""
        for sent, pids in ((signal.SIGKILL, [self.pids[rank]]), (signal.SIGTERM, self.pids)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(pid, sent)
        if not self.wait(15):
            self.kill_group()


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [p for child in task.read_text().split() for p in descendants(int(child))]
    return found


def prepare() -> None:
    """Import what the command needs.

    Raises:
        RuntimeError: an import has started threads, which would be missing in a forked child.
    """
    for name in IMPORTS:
        importlib.import_module(name)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    running = len(os.listdir("/proc/self/task"))
    if running > 1:
        raise RuntimeError(f"{running} threads run before the first fork: {threading.enumerate()}")


def start_forked(
    arguments: Sequence[str], place: Path, log: Path, board: Board, ranks: int = 1
) -> Attempt:
    """Start the command in forked children, in a folder."""
    board.write("starting", 0, 0.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    pids: list[int] = []
    for rank in range(ranks):
        settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
        settings = {"MASTER_ADDR": "127.0.0.1", **settings} if ranks > 1 else {}
        sys.stdout.flush()
        pid = os.fork()
        leader = pids[0] if pids else pid
        if pid == 0:
            os.environ.update({name: str(value) for name, value in settings.items()})
            _child(arguments, place, log, board if rank == 0 else None, leader)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, leader)
        pids.append(pid)
    return Attempt(pids, log)


def start_fresh(arguments: Sequence[str], place: Path, log: Path, ranks: int = 1) -> Attempt:
    """Start the command as a user does: `python -m archzoo.train`, by torchrun for several."""
    launch = [sys.executable, "-m"]
    if ranks > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*launch, "archzoo.train", *arguments],
            cwd=place,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    process.returncode = 0  # it is this module that waits for it
    return Attempt([process.pid], log)


def _child(
    arguments: Sequence[str], place: Path, log: Path, board: Board | None, leader: int
) -> NoReturn:
    """Become the command; never return to what the parent was doing."""
    code: Any = 1
    try:
        with contextlib.suppress(PermissionError):
            os.setpgid(0, leader)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(place)
        sys.argv = ["archzoo train", *arguments]
        if board is not None:
            _note_phases(board)
        importlib.import_module("archzoo.train.__main__").main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _note_phases(board: Board) -> None:
    """Have the loop say what it does."""
    loop = importlib.import_module("archzoo.train.engine.loop")
    trainer = loop.Trainer

    @contextlib.contextmanager
    def during(phase: str, save: bool = False) -> Iterator[None]:
        before, saves, seconds = board.read()
        began = time.monotonic()
        inside = before if before == "finishing" else phase
        board.write(inside, saves + save, seconds)
        yield
        board.write(before, saves + save, time.monotonic() - began if save else seconds)

    def noted(call: Callable[..., Any], phase: str, save: bool = False) -> Callable[..., Any]:
        def noting(*arguments: Any, **options: Any) -> Any:
            with during(phase, save):
                return call(*arguments, **options)

        return noting

    def finish(*arguments: Any) -> Any:
        _, saves, seconds = board.read()
        board.write("finishing", saves, seconds)  # until the next point of a sweep, if there is one
        return last(*arguments)

    def fit(*arguments: Any) -> Any:
        _, saves, seconds = board.read()
        board.write("training", saves, seconds)
        return train(*arguments)

    last, train = trainer._finish, trainer.fit
    trainer._finish, trainer.fit = finish, fit
    trainer.evaluate = noted(trainer.evaluate, "evaluating")
    loop.save_run = noted(loop.save_run, "saving", save=True)
