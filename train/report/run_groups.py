"""Runs as points: grouped over seeds, and named by what differs between the groups."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .charts.markup import shorten
from .run_record import RunRecord

__all__ = ["Group", "Summary", "group_runs", "settings", "summary"]

SAME_POINT = (
    *("seed", "name", "run_dir", "resume", "other_data", "imports", "data.root"),
    *("data.seed", "lowrank.seed", "adapter.seed", "trainer.threads", "trainer.workers"),
    *("trainer.progress", "trainer.max_time", "trainer.device", "trainer.keep_checkpoints"),
)
"""What two runs of one point may differ in: the seed, and what leaves the result as it is."""

LONGEST = 24  # characters of a list or a mapping in a label
PARTS = ("model.name", "data.name")
UNNAMED = {
    "lowrank.name": "dense",
    "distill.name": "no teacher",
    "adapter.name": "no adapter",
}
"""What a label calls a null."""


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation of a number over seeds; the deviation of one run is 0."""

    mean: float
    deviation: float
    count: int

    def __str__(self) -> str:
        """The mean, and ± the deviation where there are several runs."""
        spread = f" ± {self.deviation:.2g}" if self.count > 1 else ""
        return f"{self.mean:.4g}{spread}"


@dataclass
class Group:
    """Runs of one config but for the seed.

    Attributes:
        label: What differs from the other groups.
        index: Its number, for its colour.
        runs: In the order of the folders.
    """

    label: str
    index: int
    runs: list[RunRecord] = field(default_factory=list)

    @property
    def ended(self) -> list[RunRecord]:
        """Those with a result."""
        return [run for run in self.runs if run.result is not None]

    @property
    def metric(self) -> str:
        """What chose the best model: bits per byte where it was logged, else accuracy."""
        told = any(row.get("bits_per_byte") for run in self.runs for row in run.rows)
        results = [run.result["test"] for run in self.ended if run.result is not None]
        return "bits_per_byte" if told or any("bits_per_byte" in r for r in results) else "accuracy"

    def reached(self, fold: str, metric: str | None = None) -> list[float]:
        """A metric of every run that ended, on a fold; by default the one that chose."""
        name = self.metric if metric is None else metric
        found = [run.result[fold].get(name) for run in self.ended if run.result]
        return [value for value in found if isinstance(value, (int, float))]

    def tested(self) -> Summary | None:
        """The metric on the test fold, over the runs that ended."""
        return summary(self.reached("test"))

    def curve(self, split: str, metric: str) -> dict[int, Summary]:
        """A metric over steps; a step that some run did not log is the mean of the others."""
        curves = [run.curve(split, metric) for run in self.runs]
        steps = sorted({step for curve in curves for step in curve})
        found = {s: summary([curve[s] for curve in curves if s in curve]) for s in steps}
        return {step: one for step, one in found.items() if one is not None}


def summary(values: Sequence[float]) -> Summary | None:
    """Mean and deviation, with n − 1 in its denominator; None of nothing."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Summary(statistics.fmean(values), deviation, len(values))


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as dotted keys, without what runs of one point may differ in.

    What a model takes as a mapping, such as a residual with options, is one setting.
    """
    # Earlier runs lack the keys of what came later.
    absent = {name for name in UNNAMED if not config.get(name.partition(".")[0])}
    found: dict[str, Any] = dict.fromkeys(sorted(absent))
    for key, value in config.items():
        if key == "logger" or f"{key}.name" in absent:
            continue
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[key] = value
    return {key: value for key, value in found.items() if key not in SAME_POINT}


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Group runs over seeds, in the order of their first run; those without a config are left out.

    A label holds model and data where there are several, and every setting that differs between
    points of the same model and data. Between models almost all settings differ; the page has them
    whole. A word stands for itself, anything else follows its key. Points that differ in nothing of
    that kind are numbered.
    """
    found: dict[str, Group] = {}
    told: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.config:
            known = settings(run.config)
            key = json.dumps(known, sort_keys=True, default=str)
            told[key] = known
            found.setdefault(key, Group("", len(found))).runs.append(run)
    parts = _differing(list(told.values()), PARTS)
    used: dict[str, int] = {}
    for key, group in found.items():
        alike = [one for one in told.values() if all(one[p] == told[key][p] for p in PARTS)]
        names = [*parts, *_differing(alike, list(told[key]))]
        words = [_word(name, told[key][name]) for name in names]
        first = group.runs[0]
        label = " · ".join(words) or str(first.config.get("name") or first.path.name)
        used[label] = used.get(label, 0) + 1
        group.label = label if used[label] == 1 else f"{label} ({used[label]})"
    return list(found.values())


def _differing(told: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Those of some keys that have several values; one of options that only some have is theirs."""
    values = {
        key: {json.dumps(one[key], default=str) for one in told if key in one} for key in keys
    }
    return [key for key in keys if len(values[key]) > 1]


def _word(key: str, value: Any) -> str:
    """A setting as a label says it."""
    if value is None and key in UNNAMED:
        return UNNAMED[key]
    if isinstance(value, Mapping) and "name" in value:
        options = ", ".join(f"{k}={v}" for k, v in value.items() if k != "name")
        return f"{value['name']}({options})"
    if isinstance(value, str) and not value.replace(".", "").isdecimal():
        return value
    written = "null" if value is None else shorten(str(value), LONGEST)
    return f"{key.rpartition('.')[2]}={written}"
