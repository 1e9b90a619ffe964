"""The table of all benchmarks, and of the bars that their kept results miss."""

import ast
import re
from typing import Any

from ..reference import ROOT, table
from .kept import RESULTS, result

__all__ = ["BENCHMARK_FIGURES"]

SCRIPTS = ROOT / "benchmarks"


def measuring() -> list[str]:
    """The benchmarks that judge bars, by name: those that call the one `main` of the harness."""
    called = re.compile(r'^ +main\("(\w+)"', re.MULTILINE)
    found = {path.stem: called.search(path.read_text()) for path in sorted(SCRIPTS.glob("*.py"))}
    return [name for name, call in found.items() if call and call[1] == name]


def kept_bars(name: str) -> list[dict[str, Any]]:
    """The bars of the kept result; none where nothing is kept."""
    return result(name)["bars"] if (RESULTS / f"{name}.json").is_file() else []


def benchmark_index() -> str:
    """A row of each benchmark: what it measures, and how many of its bars are met."""

    def line(name: str) -> tuple[str, ...]:
        sentence = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text())) or ""
        bars = kept_bars(name)
        told = f"{sum(bar['met'] for bar in bars)} of {len(bars)}" if bars else ""
        return (f"`{name}.py`", sentence.partition("\n")[0], told)

    return table(("benchmarks/", "what it measures", "bars met"), *map(line, measuring()))


def missed_bars() -> str:
    """The bars of kept results that are missed, each by the benchmark that measured it."""
    names = measuring()

    def figure(value: float) -> str:
        return f"{value:.5g}".replace("-", "−")

    return table(
        ("benchmark", "bar", "limit", "figure"),
        *(
            (
                f"`{name}.py`",
                bar["what"],
                f"{'≤' if bar['at_most'] else '≥'} {figure(bar['limit'])}",
                figure(bar["figure"]),
            )
            for name in names
            for bar in kept_bars(name)
            if not bar["met"] and bar["what"].partition(": ")[0] not in names
        ),
    )


BENCHMARK_FIGURES = {function.__name__: function for function in (benchmark_index, missed_bars)}
