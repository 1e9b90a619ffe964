"""Start the command line in other processes, as a user would."""

import os
import subprocess
import sys
from pathlib import Path

from .common import TINY

ROOT = Path(__file__).parents[2]


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
