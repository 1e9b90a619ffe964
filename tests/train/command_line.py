"""Start the command line in other processes, as a user would."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from .small_runs import TINY

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def environment(place: Path) -> dict[str, str]:
    """An environment in which `archzoo` is this checkout, whether or not it is installed."""
    place.mkdir(parents=True, exist_ok=True)
    link = place / "archzoo"
    if not link.exists():
        link.symlink_to(ROOT)
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def command(*overrides: str) -> list[str]:
    """The trainer on the tiny run."""
    return [sys.executable, "-m", "archzoo.train", *TINY, *overrides]


def call(
    arguments: list[str], place: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder of its own and return what it said."""
    return subprocess.run(
        arguments,
        cwd=place,
        env=environment(place / "path"),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def start_pair(arguments: list[str], place: Path) -> list[subprocess.Popen[str]]:
    """Start a command as two processes that know of each other, without `torchrun` in between.

    Each has its own exit code and output; `torchrun` would stop one when the other ends.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            arguments,
            cwd=place,
            env={**environment(place / "path"), **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def end_pair(
    pair: list[subprocess.Popen[str]], timeout: float = 120
) -> list[subprocess.CompletedProcess[str]]:
    """Wait for both processes and return what each said; one that hangs is killed."""
    done = []
    try:
        for process in pair:
            out, err = process.communicate(timeout=timeout)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in pair:
            process.kill()
    return done
