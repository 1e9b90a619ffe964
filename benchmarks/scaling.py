"""How the gain of a residual changes with compute: laws of byte GPTs of five sizes.

Reads the runs of `scaling_runs.py` and the costs of `scaling_costs.py`, fits a law to the test bits
per byte of each residual (`scaling_fit.py`) and says how many times the compute of `add` reaches
the same loss: at equal FLOPs and at equal seconds, at the smallest, the middle and the largest
size, with intervals, by the laws and without one, on both texts together and on each. Nothing is
trained here. Of a study that is not at its end the sizes are those that all its residuals have, and
what is missing is told.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from harness import RESULTS, Bar, Measurement, main
from scaling_fit import (
    Array,
    Laws,
    bootstrap,
    fit,
    interval,
    log_multiplier_between,
    resampled,
)
from scaling_runs import RATES, RESIDUALS, SEEDS, SIZES, Study, steps
from spread import summary

__all__ = ["AXES", "ended", "figure", "judged", "laws_of", "places", "run_losses", "spent"]

AXES = ("FLOPs", "arithmetic", "seconds")
TEXTS = ("both", "novels", "sources")
SAMPLES = 2000


def ended(study: Study) -> tuple[list[int], list[str]]:
    """Sizes and residuals of which every point has been trained, `add` first.

    The residuals are those that have three sizes, or as many as there are; the sizes go up to where
    one of them ends.
    """

    def trained(size: int, residual: str) -> bool:
        try:
            return bool(study.losses(size, residual))
        except LookupError:
            return False

    for least in (3, 2, 1):
        first = SIZES[:least]
        residuals = [name for name in RESIDUALS if all(trained(size, name) for size in first)]
        if "add" in residuals:
            whole = [all(trained(size, name) for name in residuals) for size in SIZES]
            return [*SIZES[: [*whole, False].index(False)]], residuals
    return [], []


def places(sizes: Sequence[int]) -> dict[str, int]:
    """The sizes at which a multiplier is told."""
    return {"smallest": sizes[0], "middle": sizes[len(sizes) // 2], "largest": sizes[-1]}


def run_losses(
    study: Study, sizes: Sequence[int], residuals: Sequence[str], text: str = "both"
) -> Array:
    """Test bits per byte of every run, shape (M, S, K); NaN behind the last seed of a size."""
    found = np.full((len(residuals), len(sizes), max(map(len, SEEDS.values()))), np.nan)
    for (m, residual), (s, size) in itertools.product(enumerate(residuals), enumerate(sizes)):
        for k, run in enumerate(study.losses(size, residual)):
            found[m, s, k] = (
                run["test"]["bits_per_byte"] if text == "both" else run["by_corpus"][text]
            )
    return found


def spent(
    costs: Sequence[dict[str, Any]], sizes: Sequence[int], residuals: Sequence[str], axis: str
) -> Array:
    """The logarithm of what a run of each size costs, shape (M, S)."""
    by = {(row["size"], row["residual"]): row for row in costs}

    def one(size: int, residual: str) -> float:
        row = by[size, residual]
        if axis == "seconds":  # from the paired ratio, in which a drift of the machine cancels
            return by[size, "add"]["step, ms"] * row["step over add"] / 1e3 * steps(size)
        return float(row[axis] * steps(size))

    return np.log([[one(size, residual) for size in sizes] for residual in residuals])


def laws_of(log_compute: Array, runs: Array, samples: int) -> tuple[Laws, Laws]:
    """The laws of all runs, and those of runs drawn anew."""
    counts = (~np.isnan(runs[0])).sum(-1).astype(float)
    whole = fit(log_compute, np.nanmean(runs, -1)[None], counts)
    generator = np.random.default_rng(0)
    return whole, bootstrap(log_compute, runs, samples=samples, generator=generator)


def figure(whole: float, drawn: Array) -> list[float]:
    """A figure with both ends of its interval."""
    return [round(float(x), 4) for x in (whole, *interval(drawn))]


def judged(figures: Sequence[float], than: float, above: str, below: str, neither: str) -> str:
    """A word for an interval that lies above or below a value, and for one that holds it."""
    _, low, high = figures
    return above if low > than else below if high < than else neither


def multipliers(
    sizes: Sequence[int],
    residuals: Sequence[str],
    log_compute: Array,
    whole: Laws,
    drawn: Laws,
    **told: str,
) -> list[dict[str, Any]]:
    """A row of each residual but `add`: its multipliers, and how they change with compute."""
    rows = []
    for m, residual in enumerate(residuals[1:], 1):
        found = {}
        for name, size in places(sizes).items():
            at = log_compute[m, sizes.index(size)]
            times = [np.exp(laws.log_multiplier(at)[:, m]) for laws in (whole, drawn)]
            found[name] = figure(times[0].item(), times[1])
        trend = figure(whole.trend()[0, m], drawn.trend()[:, m])
        verdicts = [judged(f, 1.0, "saves", "costs", "not shown") for f in found.values()]
        rows.append(
            {
                "part": "multiplier",
                "residual": residual,
                **told,
                **found,
                "verdicts": verdicts,
                "trend": trend,
                "with size": judged(trend, 0.0, "grows", "falls", "no trend shown"),
            }
        )
    return rows


def between(
    sizes: Sequence[int],
    residuals: Sequence[str],
    log_compute: Array,
    runs: Array,
    samples: int,
    **told: str,
) -> list[dict[str, Any]]:
    """A row of each residual but `add`: its multipliers without a law."""
    means = np.nanmean(runs, -1)[None]
    drawn = resampled(runs, samples=samples, generator=np.random.default_rng(0))
    whole, others = (np.exp(log_multiplier_between(log_compute, each)) for each in (means, drawn))
    rows = []
    for m, residual in enumerate(residuals[1:], 1):
        found = {
            name: figure(whole[0, m, sizes.index(size)], others[:, m, sizes.index(size)])
            for name, size in places(sizes).items()
        }
        verdicts = [judged(f, 1.0, "saves", "costs", "not shown") for f in found.values()]
        rows.append(
            {"part": "between", "residual": residual, **told, **found, "verdicts": verdicts}
        )
    return rows


def tables(study: Study, costs: Sequence[dict[str, Any]], samples: int) -> list[dict[str, Any]]:
    """Losses of every size, laws and multipliers."""
    sizes, residuals = ended(study)
    rows = [
        loss_row(study, size, residual) for residual, size in itertools.product(residuals, sizes)
    ]
    if len(sizes) < 3 or len(residuals) < 2:
        return rows
    for axis, text in itertools.product(AXES, TEXTS):
        if axis == "arithmetic" and text != "both":
            continue
        log_compute = spent(costs, sizes, residuals, axis)
        runs = run_losses(study, sizes, residuals, text)
        whole, drawn = laws_of(log_compute, runs, samples)
        told = {"equal": axis, "text": text}
        rows += between(sizes, residuals, log_compute, runs, samples, **told)
        rows += multipliers(sizes, residuals, log_compute, whole, drawn, **told)
        rows += [
            {
                "part": "law",
                "residual": residual,
                **told,
                "log a": float(whole.log_a[0, m]),
                "b": figure(whole.b[0, m], drawn.b[:, m]),
                "c": figure(whole.c[0], drawn.c),
                "misfit": float(whole.misfit[0]),
            }
            for m, residual in enumerate(residuals)
        ]
    return rows


def loss_row(study: Study, size: int, residual: str) -> dict[str, Any]:
    """Test bits per byte of a residual at a size, and the rate that it has there."""
    figures = [run["test"]["bits_per_byte"] for run in study.losses(size, residual)]
    mean, error = summary(figures)
    rate = study.rate(size, residual)
    return {
        "part": "loss",
        "residual": residual,
        "size": size,
        "bits/byte": round(mean, 4),
        "standard error": round(error, 4) if len(figures) > 1 else None,
        "seeds": len(figures),
        "rate": RATES[rate],
        "at an end of the rates": rate in (0, len(RATES) - 1),
    }


def kept_costs() -> list[dict[str, Any]]:
    """The rows of `scaling_costs.py`."""
    return json.loads((RESULTS / "scaling_costs.json").read_text())["rows"]


def measure(quick: bool) -> Measurement:
    """Fit what has been trained."""
    study, costs = Study(train=False), kept_costs()
    rows = tables(study, costs, 100 if quick else SAMPLES)
    sizes, residuals = ended(study)
    spread = float(np.exp(np.ptp(spent(costs, sizes, ["add"], "FLOPs")))) if sizes else 1.0
    claims = [row for row in rows if row["part"] in ("multiplier", "between")]
    bars = [
        Bar("sizes that all residuals have", len(sizes), len(SIZES), at_most=False),
        Bar("residuals at these sizes", len(residuals), len(RESIDUALS), at_most=False),
        Bar("largest over smallest size, FLOPs of add", spread, 30.0, at_most=False),
        Bar("multipliers without an interval", sum(map(unbounded, claims)), 0),
    ]
    left = [f"size {size}" for size in SIZES if size not in sizes]
    left += [name for name in RESIDUALS if name not in residuals]
    return rows, bars, [f"Not trained to the end yet: {', '.join(left)}."] if left else []


def unbounded(row: dict[str, Any]) -> int:
    """How many multipliers of a row lack an interval with both ends."""
    return sum(not np.isfinite(row[name]).all() for name in ("smallest", "middle", "largest"))


if __name__ == "__main__":
    main("scaling", measure)
