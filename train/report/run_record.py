"""What a run left behind, read without running anything; what is broken is told and not dropped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..callbacks.lowrank_training import RANKS
from ..engine.loggers import CSVLogger
from ..engine.saved.folder_lock import is_locked
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError
from ..sweep import FAILURE
from .rank_rows import read_ranks
from .side_files import COSTS_FILE, read_certificate, read_costs, read_mapping, read_robustness

__all__ = ["RunRecord", "find_runs", "read_run"]

LEFT = ("config.yaml", "metrics.csv", FAILURE, "run.lock", "result.json", "checkpoints")
"""What tells a run's folder from one that holds runs."""
Part = TypeVar("Part")


@dataclass
class RunRecord:
    """The files of a run, as far as they can be read.

    Attributes:
        path: Its folder.
        config: Resolved; empty where it is missing.
        rows: Of `metrics.csv`.
        result: Metrics of the best model; None for a run that has not ended.
        environment: Versions, machine and command of the first start.
        costs: What `compare` measured of its model, or None.
        ranks: Rows of `ranks.jsonl`.
        certificate: What `certify` wrote, or None.
        robustness: What `robustness` wrote, or None.
        trouble: Why the run is not whole; empty where it is.
    """

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    result: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Any] | None = None
    ranks: list[dict[str, Any]] = field(default_factory=list)
    certificate: Mapping[str, Any] | None = None
    robustness: Mapping[str, Any] | None = None
    trouble: list[str] = field(default_factory=list)

    def curve(self, split: str, metric: str) -> dict[int, float]:
        """A metric over steps, where it was logged and is a number."""
        found = {}
        for row in self.rows:
            if row["split"] == split and row.get(metric):
                try:
                    found[int(row["step"])] = float(row[metric])
                except ValueError:
                    continue  # a logger of the user's may write words in its own column
        return found


def find_runs(places: list[Path]) -> list[Path]:
    """The folders of runs, in natural order: those named, and those inside folders of runs.

    Raises:
        ValueError: a place that is none, or holds no run.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise ValueError(f"{place} is no folder; name a run folder, or one that holds runs")
        inside = list(_runs_in(place))
        if not inside:
            raise ValueError(f"{place} holds no run; name a run folder, or one that holds runs")
        found |= dict.fromkeys(inside)
    return list(found)


def read_run(path: Path) -> RunRecord:
    """Read a run's folder; whatever is missing or damaged is noted in `trouble`."""
    run, folder = RunRecord(path), RunFolder(path)

    def part(name: str, read: Callable[[], Part]) -> Part | None:
        """Read a file that a run need not have."""
        if not (path / name).is_file():
            return None
        try:
            return read()
        except RunError as error:
            run.trouble.append(str(error))
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            run.trouble.append(f"{name} is damaged: {' '.join(str(error).split())}")
        return None

    failure = part(FAILURE, (path / FAILURE).read_text)
    if failure is not None:
        run.trouble.append(f"it failed: {failure.strip()}")
    elif not folder.config.is_file():
        run.trouble.append("it holds no config.yaml: it ended before its first step")
    run.config = part(folder.config.name, lambda: _whole(folder.read_config())) or {}
    run.rows = part("metrics.csv", lambda: CSVLogger(path, {}).rows()) or []
    if run.config:
        run.result = part(folder.result.name, lambda: folder.read_result(run.config))
    if not folder.result.is_file() and failure is None:
        last = max((int(row["step"]) for row in run.rows), default=0)
        state = "it is running" if is_locked(path) else "it has not ended"
        run.trouble.append(f"{state}; the last step it logged is {last:,}")
    run.environment = (
        part("environment.json", lambda: read_mapping(path / "environment.json")) or {}
    )
    run.costs = part(COSTS_FILE, lambda: read_costs(path / COSTS_FILE))
    run.ranks = part(RANKS, lambda: read_ranks(path)) or []
    run.certificate = part("certificate.json", lambda: read_certificate(path / "certificate.json"))
    run.robustness = part("robustness.json", lambda: read_robustness(path / "robustness.json"))
    return run


def _runs_in(place: Path) -> list[Path]:
    if any((place / name).exists() for name in LEFT):
        return [place]
    inner = (path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for path in sorted(inner, key=_natural) for run in _runs_in(path)]


def _natural(path: Path) -> tuple[float, str]:
    first = path.name.partition("-")[0]
    return (float(first) if first.isdecimal() else float("inf")), path.name


def _whole(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse a config that is none of a run."""
    for part in ("model", "data", "trainer"):
        settings = config.get(part)
        if not isinstance(settings, Mapping) or (part != "trainer" and "name" not in settings):
            raise ValueError(f"it names no {part}")
    for key in ("batch_size", "accumulate"):
        size = config["trainer"].get(key, 1)
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"trainer.{key} is no count: {size!r}")
    return config
