"""A run that is started again and again: at one go, its parts timed, or struck in the middle."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fork_server import Attempt, Board, start_forked, start_fresh
from kill_kinds import COMMON, Kind

__all__ = ["LONGEST", "Run", "Timing", "strike", "uninterrupted"]

LONGEST = 600.0
"""Seconds of an attempt, after which it hangs."""

AIMS = {"work": 6, "start": 1, "save": 2, "end": 1}
"""Weights of the parts of a run that a kill is aimed at; it falls anywhere in the part."""


@dataclass
class Timing:
    """Seconds of a whole run before, in and after its steps; its saves and how long one took."""

    start: float
    work: float
    end: float
    saves: int
    save: float


class Run:
    """A run of a kind in a folder of its own, started as often as it takes.

    Args:
        kind: What is run.
        variant: Which of its commands.
        place: A new folder.
        data: Folder of the data.
        board: The children's.
    """

    def __init__(self, kind: Kind, variant: int, place: Path, data: Path, board: Board) -> None:
        """Make the folder."""
        self.kind, self.place, self.board = kind, place, board
        self.arguments = [*kind.place, *COMMON, *kind.variants[variant]]
        self.arguments = [text.replace("DATA", str(data)) for text in self.arguments]
        self.log = place.parent / f"{place.name}.log"
        place.mkdir(parents=True)

    def start(self, *, fresh: bool = False, by_name: bool = False) -> Attempt:
        """Give the command; by name, as `resume=run` alone, where there is a checkpoint."""
        arguments = self.arguments
        if by_name and not self.kind.sweep and (self.place / "run/checkpoints/last.pt").is_file():
            arguments = ["resume=run"]
        self._next_second()
        if fresh:
            return start_fresh(arguments, self.place, self.log, self.kind.ranks)
        return start_forked(arguments, self.place, self.log, self.board, self.kind.ranks)

    def _next_second(self) -> None:
        """Wait where an event file is of this second: TensorBoard orders them by second."""
        files = [path.stat().st_mtime for path in self.place.rglob("events.*")]
        while files and int(max(files)) >= int(time.time()):
            time.sleep(0.01)


def uninterrupted(run: Run, fresh: bool) -> Timing:
    """Complete a run at one go and time its parts."""
    attempt = run.start(fresh=fresh)
    moments: dict[str, float] = {}
    while not attempt.ended():
        moments.setdefault(run.board.read()[0], time.monotonic() - attempt.began)
        time.sleep(0.0005)
    if any(attempt.codes.values()):
        raise RuntimeError(f"{run.kind.name}: {run.log.read_text()[-2000:]}")
    took = time.monotonic() - attempt.began
    begun, end = moments.get("training", took), moments.get("finishing", took)
    _, saves, seconds = run.board.read()
    return Timing(begun, end - begun, took - end, saves, seconds)


def strike(run: Run, attempt: Attempt, timing: Timing, draw: random.Random, fresh: bool) -> bool:
    """Kill an attempt at a random moment; return whether it was still there."""
    aim = draw.choices([*AIMS], [*AIMS.values()])[0]
    length = {"work": timing.work, "start": timing.start, "end": timing.end,
              "save": 2 * timing.save}[aim]  # fmt: skip
    nth, delay = draw.randint(1, max(1, timing.saves)), draw.uniform(0, length)
    due: dict[str, Callable[[], bool]] = {
        "start": lambda: True,
        "work": lambda: run.board.read()[0] != "starting",
        "save": lambda: run.board.read()[1] >= nth,
        "end": lambda: run.board.read()[0] == "finishing",
    }
    if fresh:  # nobody tells what it does but its output
        seen = run.log.stat().st_size if run.log.exists() else 0
        due[aim] = lambda: b" steps on " in run.log.read_bytes()[seen:]
        delay = draw.uniform(0, timing.work)
    while not due[aim]():
        if attempt.ended() or time.monotonic() - attempt.began > LONGEST:
            break
        time.sleep(0.0005)
    until = time.monotonic() + delay
    while (left := until - time.monotonic()) > 0:
        if attempt.ended():
            return False
        time.sleep(min(0.001, left))
    if attempt.ended():
        return False
    if not fresh and run.kind.ranks > 1 and draw.random() < 1 / 3:
        attempt.kill_rank(draw.randrange(run.kind.ranks))
    elif fresh or draw.random() < 0.8:
        attempt.kill_tree()
    else:
        attempt.kill_group()
    return True
