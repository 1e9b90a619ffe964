"""The one shape of a benchmark: `--quick`, `--check`, a result file and a table.

A script calls `main(name, measure)`. `measure(quick)` returns rows, bars and, where there is more
to say, sentences. They go to `build/benchmarks/NAME.json` with the machine they were measured on;
with `--keep` to `benchmarks/results/NAME.json`, which is tracked and holds what the pages quote; a
run that could not judge what the kept file judges, as where a peer is missing, does not replace it.
With `--check` a bar that falls short makes the exit code 1 and is the last line; so does having no
bar to judge, as where no peer is installed.
"""

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from archzoo.zoo.share import replacing

RESULTS = Path(__file__).parent / "results"
UNTRACKED = RESULTS.parents[1] / "build" / "benchmarks"


@dataclass(frozen=True)
class Bar:
    """A figure that must not exceed, or not fall below, a limit."""

    what: str
    figure: float
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit

    def __str__(self) -> str:
        """One line with the figure, the limit and the verdict."""
        sign = "<=" if self.at_most else ">="
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:<7}{self.what}: {self.figure:.4g} {sign} {self.limit:g}"


Measurement = (
    tuple[list[dict[str, Any]], list[Bar]] | tuple[list[dict[str, Any]], list[Bar], list[str]]
)


def main(name: str, measure: Callable[[bool], Measurement]) -> None:
    """Measure, write the result file, print the table and judge the bars."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 60 s; fewer repetitions")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--keep", action="store_true", help="write the tracked result file")
    arguments = parser.parse_args()
    started = time.perf_counter()
    rows, bars, *notes = measure(arguments.quick)
    record = {
        "benchmark": name,
        "quick": arguments.quick,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": machine(),
        "rows": rows,
        "bars": [asdict(bar) | {"met": bar.met} for bar in bars],
        **({"notes": notes[0]} if notes else {}),
    }
    folder = RESULTS if arguments.keep else UNTRACKED
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "-quick" if arguments.quick else ""
    file = folder / f"{name}{suffix}.json"
    lost = unjudged(file, bars) if arguments.keep else []
    if lost:
        file = UNTRACKED / file.name
        file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as whole:
        whole.write_text(json.dumps(record, indent=2) + "\n")
    print(table(rows))
    for note in itertools.chain(*notes):
        print(note)
    missed = [bar for bar in bars if not bar.met]
    for bar in [bar for bar in bars if bar.met] + missed:
        print(bar)
    if lost:
        sys.exit(
            f"{name}: not kept, because {len(lost)} bars of the kept file were not judged, such as "
            f"{lost[0]!r}; install the peers, or delete the kept file first. This run is in {file}"
        )
    if arguments.check and missed:
        sys.exit(1)
    if arguments.check and not bars:
        sys.exit(f'{name}: no bar could be judged; pip install -e ".[peers]", and see --help')


def unjudged(kept: Path, bars: Sequence[Bar]) -> list[str]:
    """The bars of a kept file that a run did not judge; figures within a name may differ."""
    if not kept.is_file():
        return []
    judged = {re.sub(r"[\d.]+", "", bar.what) for bar in bars}
    told = [bar["what"] for bar in json.loads(kept.read_text())["bars"]]
    return [what for what in told if re.sub(r"[\d.]+", "", what) not in judged]


def interleaved(
    candidates: dict[str, Callable[[], float]], repetitions: int
) -> dict[str, list[float]]:
    """Run each candidate in turn, in alternating order, and collect what each returns."""
    names = list(candidates)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for i in range(repetitions):
        for name in names if i % 2 == 0 else reversed(names):
            figures[name].append(candidates[name]())
    return figures


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of pairwise ratios: a drift of the machine's speed cancels within a pair."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Align rows under their keys."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [heads] + [
        [f"{row[h]:.4g}" if isinstance(row.get(h), float) else str(row.get(h, "")) for h in heads]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    )
