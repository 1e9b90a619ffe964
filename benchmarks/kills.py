"""Ten kinds of run, each killed a hundred times and resumed, against the run that was not killed.

SIGKILL falls at random moments on the real command, which is then given again with `resume=auto`,
or as `resume=FOLDER` alone; a run that completes is compared with the uninterrupted one and another
begins, until the kills are counted. All that the two left must be equal bitwise: weights, best
weights, every checkpoint with its optimiser and generators, rows of `metrics.csv` and TensorBoard's
scalars, result, ranks and samples. Times are the only exception.

    python benchmarks/kills.py [--quick] [--check]

Children are forked off a process that has imported everything (`fork_server.py`); the uninterrupted
runs and two kills of every kind are those of fresh interpreters. Of ten moments six are uniform
over the run's work, one over its start, and of those that a uniform draw seldom meets two lie in a
save or just after it, one in what follows the last step. Every twenty kills of a kind are a line of
`results/kills_runs.jsonl` and are not made again; remove the file to make them anew.
"""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fork_server import PHASES, Board, prepare
from harness import RESULTS, Bar, Measurement, main
from kill_kinds import KINDS, Kind, make_data
from kill_runs import LONGEST, Run, Timing, strike, uninterrupted
from records import Records
from run_contents import contents, differences, left_over, steps_reached

KILLS, PART, FRESH_KILLS = 100, 20, 2
SHARES = ("0%", "25%", "50%", "75%", "100%")
"""Of the steps, that a checkpoint held when a kill fell; rounded down."""


@dataclass
class Tally:
    """What came of the kills of one kind."""

    kills: int = 0
    attempts: int = 0
    completed: int = 0
    wrong: list[str] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)


def kill_and_resume(
    run: Run, timing: Timing, total: int, tally: Tally, draw: random.Random, most: int, fresh: bool
) -> None:
    """Start a run until it completes, killing it up to so many times."""
    while True:
        attempt = run.start(fresh=fresh, by_name=draw.random() < 1 / 3)
        tally.attempts += 1
        if tally.kills < most and strike(run, attempt, timing, draw, fresh):
            tally.kills += 1
            phase = run.board.read()[0]
            if fresh:
                phase = "fresh interpreter"
            elif phase == "training" and not list(run.place.rglob("last.pt")):
                phase = "before the first save"
            tally.phases[phase] += 1
            share = steps_reached(run.place) / total
            tally.reached[f"{min(4, int(4 * share)) * 25}%"] += 1
            continue
        if not attempt.wait(LONGEST):
            attempt.kill_tree()
            tally.wrong.append(f"hung for {LONGEST:g} s")
        elif any(attempt.codes.values()):
            said = run.log.read_text().strip().splitlines()[-1:]
            tally.wrong.append(f"exit codes {[*attempt.codes.values()]}: {said}")
        else:
            tally.completed += 1
        return


def measure_part(
    kind: Kind, data: Path, kills: int, *, fresh_kills: int, variants: int, seed: int
) -> dict[str, Any]:
    """Kill runs of one kind until the kills are counted.

    Args:
        kind: What is run.
        data: Folder of the data.
        kills: To count.
        fresh_kills: Of them, those of fresh interpreters; with some, the uninterrupted run that
            all are compared with is a fresh interpreter's as well.
        variants: How many of the kind's commands take turns.
        seed: Of the moments.
    """
    began, board, draw = time.monotonic(), Board(), random.Random(f"{kind.name} {seed}")
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        wanted, timings, totals = [], [], []
        for variant in range(variants):
            reference = Run(kind, variant, Path(folder) / f"whole-{variant}", data, board)
            if fresh_kills:
                uninterrupted(reference, fresh=True)
            forked = Run(kind, variant, Path(folder) / f"forked-{variant}", data, board)
            timings.append(uninterrupted(forked, fresh=False))
            wanted.append(contents((reference if fresh_kills else forked).place))
            totals.append(steps_reached(forked.place))
            tally.wrong += judge(forked, wanted[variant])
        for number in range(10 * kills):
            fresh = tally.kills < fresh_kills
            variant = number % variants
            run = Run(kind, variant, Path(folder) / f"run-{number}", data, board)
            most = min(kills, tally.kills + 1) if fresh else kills
            kill_and_resume(run, timings[variant], totals[variant], tally, draw, most, fresh)
            wrong = judge(run, wanted[variant])
            tally.wrong += [f"variant {variant}: {what}" for what in wrong]
            if wrong:
                shutil.copytree(run.place, Path(tempfile.mkdtemp(prefix="kills-wrong-")) / "run")
            shutil.rmtree(run.place)
            if tally.kills >= kills or len(tally.wrong) > 20:
                break
    return {
        "kills": tally.kills,
        "runs": tally.completed,
        "attempts": tally.attempts,
        "wrong": tally.wrong,
        "phases": dict(tally.phases),
        "reached": dict(tally.reached),
        "seconds": round(time.monotonic() - began),
    }


def measure_kind(kind: Kind, data: Path, records: Records) -> dict[str, Any]:
    """Make the kills of one kind that are missing, part by part, and add all up."""
    parts: list[dict[str, Any]] = []
    while (missing := KILLS - sum(part["kills"] for part in parts)) > 0:
        options = {"fresh_kills": 0 if parts else FRESH_KILLS, "seed": len(parts)}
        part = records.get(
            {"kind": kind.name, "part": len(parts)},
            lambda: measure_part(kind, data, min(PART, missing), variants=len(kind.variants),
                                 **options),  # noqa: B023
        )  # fmt: skip
        parts.append(part)
        if part["wrong"] and part["kills"] < min(PART, missing):
            break  # it was given up
    summed = {name: sum(part[name] for part in parts) for name in ("kills", "runs", "seconds")}
    wrong = [what for part in parts for what in part["wrong"]]
    counted = {name: added(part[name] for part in parts) for name in ("phases", "reached")}
    return {**summed, **counted, "wrong": wrong}


def added(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Add up counts by name."""
    return sum((Counter(count) for count in counts), Counter[str]())


def judge(run: Run, wanted: dict[str, Any]) -> list[str]:
    """Say in what a completed run differs from the uninterrupted one."""
    return differences(wanted, contents(run.place)) + left_over(run.place)


def measure(quick: bool) -> Measurement:
    """Kill what is missing and make the table."""
    prepare()
    records = Records(RESULTS / "kills_runs.jsonl")
    found = {}
    with tempfile.TemporaryDirectory(prefix="kills-data-") as place:
        make_data(Path(place))
        for kind in KINDS:
            found[kind.name] = (
                measure_part(kind, Path(place), 2, fresh_kills=0, variants=1, seed=0)
                if quick
                else measure_kind(kind, Path(place), records)
            )
    ended = list(found.values())
    phases, reached = (added(one[name] for one in ended) for name in ("phases", "reached"))
    rows = [row(name, one) for name, one in found.items()]
    wrong = [f"{name}: {what}" for name, one in found.items() for what in one["wrong"]]
    total = {name: sum(one[name] for one in ended) for name in ("kills", "runs")}
    rows.append(row("all", {**total, "phases": phases, "reached": reached, "wrong": wrong}))
    bars = [
        Bar("kinds of run", len(ended), 10, False),
        Bar(
            "kills, fewest of a kind",
            min(one["kills"] for one in ended),
            2 if quick else KILLS,
            False,
        ),
        Bar("differences from the uninterrupted run, and errors", len(wrong), 0),
    ]
    if not quick:
        bars.append(
            Bar("kills in a phase, fewest", min(phases[name] for name in PHASES), 20, False)
        )
        fresh = phases["fresh interpreter"]
        bars.append(Bar("kills of fresh interpreters", fresh, 10 * FRESH_KILLS, False))
    return rows, bars, wrong


def row(name: str, one: dict[str, Any]) -> dict[str, Any]:
    """One kind: kills by phase."""
    names = ("starting", "before the first save", *PHASES[1:], "fresh interpreter")
    counts = {phase: one["phases"].get(phase, 0) for phase in names}
    shown = {"kind": name, "kills": one["kills"], "runs": one["runs"], "wrong": len(one["wrong"])}
    shares = {f"from {share}": one["reached"].get(share, 0) for share in SHARES}
    return {**shown, **counts, **shares}


if __name__ == "__main__":
    main("kills", measure)
