"""How long commands take before they do anything, as a multiple of `python -c "import torch"`.

Each command runs in a process of its own, in turn with the others and in alternating order. A ratio
is the median over pairs of neighbouring runs, in wall time. The first run of each command, which
reads files from the disk, is not counted.

    python benchmarks/start_up.py --check
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import Bar, Measurement, interleaved, main, median_ratio

ROOT = Path(__file__).parents[1]
TORCH = "import torch"
ARCHZOO = (sys.executable, "-m", "archzoo.train.commands")
COMMANDS = {
    TORCH: (sys.executable, "-c", TORCH),
    "archzoo --help": (*ARCHZOO, "--help"),
    "archzoo list": (*ARCHZOO, "list"),
    "archzoo info vit_tiny": (*ARCHZOO, "info", "vit_tiny"),
    "archzoo certify --help": (*ARCHZOO, "certify", "--help"),
    "archzoo train --help": (*ARCHZOO, "train", "--help"),
    "archzoo train model=vit_tinny": (*ARCHZOO, "train", "model=vit_tinny"),
}
LIMITS = {
    "archzoo --help": 1.5,
    "archzoo list": 1.5,
    "archzoo train --help": 2.0,
    "archzoo train model=vit_tinny": 2.0,
}
REPETITIONS = 9


def started(name: str, place: Path, processor: dict[str, list[float]]) -> Callable[[], float]:
    """A function that runs a command and returns its seconds, and notes those of the processor."""

    def run() -> float:
        used, began = _children(), time.perf_counter()
        done = subprocess.run(
            COMMANDS[name],
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *_path()])},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - began
        if done.returncode != (2 if "tinny" in name else 0):
            sys.exit(f"{name} ended with {done.returncode}: {done.stderr}")
        processor.setdefault(name, []).append(_children() - used)
        return seconds

    return run


def measure(quick: bool) -> Measurement:
    """Time every command."""
    processor: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "archzoo").symlink_to(ROOT)
        runs = {name: started(name, place, processor) for name in COMMANDS}
        for run in runs.values():
            run()
        processor.clear()
        seconds = interleaved(runs, 2 if quick else REPETITIONS)
    ratios = {name: median_ratio(seconds[name], seconds[TORCH]) for name in COMMANDS}
    rows = [
        {
            "command": name,
            "× import torch": ratios[name],
            "seconds": statistics.median(seconds[name]),
            "processor's seconds": statistics.median(processor[name]),
            "× of processor": median_ratio(processor[name], processor[TORCH]),
        }
        for name in COMMANDS
    ]
    return rows, [Bar(f"{name} / {TORCH}", ratios[name], most) for name, most in LIMITS.items()]


def _children() -> float:
    """Processor seconds of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


if __name__ == "__main__":
    main("start_up", measure)
