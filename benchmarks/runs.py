"""Runs by the configs of `archzoo train`, in this process, each kept when it ends.

A run is what its overrides say, and a seed. What stands in the file is not run again, so that an
interrupted comparison goes on where it was. Folders of this machine are no part of what is kept.
"""

import contextlib
import csv
import functools
import io
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from archzoo.train.config import run_config
from archzoo.train.errors import RunError
from archzoo.train.run import Ended, run_to_end
from archzoo.train.schemas import register_schemas
from harness import RESULTS, UNTRACKED
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from records import Records

__all__ = ["KEPT", "Runs", "Told", "best_rate", "register", "text", "trained"]

Told = tuple[str, ...]

KEPT = ("validation", "test", "adapter")
"""What is kept of a run's `result.json`."""

LESS_IS_BETTER = ("bits_per_byte", "loss")


class Runs:
    """Results of runs.

    Args:
        name: Of the file, `results/NAME_runs.jsonl`.
        quick: Whether nothing is to be kept.
        places: Overrides that name folders of this machine.
        before: Called before a run is trained, to make what it starts from.
    """

    def __init__(
        self, name: str, quick: bool, *places: str, before: Callable[[], object] | None = None
    ) -> None:
        """Read what has ended."""
        path = RESULTS / f"{name}_runs.jsonl"
        if quick:
            path = UNTRACKED / f"{name}-quick_runs.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        self.records, self.places, self.before = Records(path), places, before

    def result(
        self,
        told: Sequence[str],
        seed: int,
        also: Callable[[Path], Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Metrics of the validation and the test, and the median seconds of a step.

        Args:
            told: Overrides, within which `{seed}` is the seed.
            seed: Of the run.
            also: Read off the run's folder before it is gone, and kept under its name.

        Returns:
            What is kept, or only `diverged` where the loss did not stay finite.
        """
        key: dict[str, Any] = {"told": list(told), "seed": seed}
        if also is not None:
            key["also"] = also.__name__  # type: ignore[attr-defined]
        return self.records.get(key, lambda: self._train(key["told"], seed, also))

    def best(self, told: Told, choices: Sequence[Told], metric: str, seeds: Sequence[int]) -> Told:
        """The choice with the best validation metric, in the mean over some seeds."""

        def score(more: Told) -> float:
            runs = [self.result((*told, *more), seed)["validation"] for seed in seeds]
            return statistics.mean(run[metric] for run in runs)

        return (min if metric in LESS_IS_BETTER else max)(choices, key=score)

    def tested(
        self,
        told: Told,
        choices: Sequence[Told],
        metric: str,
        seeds: Sequence[int],
        *,
        choose_by: int = 1,
    ) -> tuple[list[float], Told]:
        """The test metric of each seed at the best choice of the first seeds, and that choice."""
        chosen = self.best(told, choices, metric, seeds[:choose_by])
        return [self.result((*told, *chosen), seed)["test"][metric] for seed in seeds], chosen

    def _train(
        self, told: Sequence[str], seed: int, also: Callable[[Path], Mapping[str, Any]] | None
    ) -> dict[str, Any]:
        if self.before is not None:
            self.before()
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            try:
                result = trained([*told, *self.places], seed, folder).result
            except RunError as error:
                if "loss is nan" not in str(error) and "loss is inf" not in str(error):
                    raise
                return {"diverged": str(error)}
            kept = {part: result[part] for part in KEPT if part in result}
            kept["step_seconds"] = seconds_of_a_step(folder)
            more = {} if also is None else {also.__name__: also(folder)}  # type: ignore[attr-defined]
        print(*told, seed, {k: round(v, 4) for k, v in result["test"].items()}, flush=True)
        return {**kept, **more}


def trained(told: Sequence[str], seed: int, folder: Path) -> Ended:
    """Train into a folder as the command line does; `{seed}` within the overrides is the seed."""
    register()
    overrides = [one.replace("{seed}", str(seed)) for one in told]
    overrides += [f"seed={seed}", f"run_dir={folder}", "logger=[csv]", "trainer.progress=false"]
    with initialize_config_module("archzoo.conf", version_base="1.3"):
        config = run_config(compose("train", overrides=overrides))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return run_to_end(config)


def seconds_of_a_step(folder: Path) -> float | None:
    """The median time of an optimiser step of a run, which counts what else the machine did."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    trainer = OmegaConf.load(folder / "config.yaml").trainer
    samples = trainer.batch_size * trainer.accumulate
    rates = [float(row["samples_per_second"]) for row in rows]
    return round(samples / statistics.median(rates), 5) if rates else None


@functools.cache
def register() -> None:
    """Tell Hydra about all parts once."""
    warnings.filterwarnings("ignore", module="hydra")
    register_schemas()


def best_rate(
    score: Callable[[float], float], rates: Sequence[float], outer: Sequence[float]
) -> tuple[float, dict[float, float]]:
    """The learning rate of the least score, and the scores of all that were tried.

    Args:
        score: Of a rate.
        rates: Tried in any case.
        outer: Tried one after the other, the nearest first, while the best is at an end.
    """
    tried: dict[float, float] = {}
    wanted = list(rates)
    while wanted:
        tried |= {rate: score(rate) for rate in wanted}
        best = min(tried, key=tried.__getitem__)
        beyond = [
            rate
            for rate in outer
            if rate not in tried
            and ((best == max(tried) and rate > best) or (best == min(tried) and rate < best))
        ]
        wanted = beyond[:1]
    return min(tried, key=tried.__getitem__), tried


def text(figures: Sequence[float]) -> str:
    """A mean with its standard deviation."""
    spread = statistics.stdev(figures) if len(figures) > 1 else math.nan
    return f"{statistics.mean(figures):.3f} ± {spread:.3f}"
