"""Residuals of one small vision transformer on the digits, by `archzoo compare`, with its report.

Five mechanisms with three seeds each train for 300 steps at equal samples; costs are measured in
turns beside them. The page is `build/benchmarks/compare_digits/report.html`, and
`python benchmarks/page_picture.py` draws it. An interrupted comparison goes on where it was. What
300 steps on 1,257 images tell of a mechanism is how fast it starts, not where it ends.
"""

import shutil
from typing import Any

from archzoo.train.commands.compare import compare
from harness import UNTRACKED, Bar, Measurement, main

RESIDUALS = ("add", "attnres", "block_attnres", "delta", "hyper_connections")
PLACE = UNTRACKED / "compare_digits"


def measure(quick: bool) -> Measurement:
    """Compare, and make a row of each mechanism."""
    steps, seeds, seconds = (20, 1, 0.1) if quick else (300, 3, 2.0)
    place = PLACE.with_name("compare_digits-quick") if quick else PLACE
    if quick:
        shutil.rmtree(place, ignore_errors=True)
    answer = compare(
        *("trainer.evaluate_every=30", "trainer.threads=1", "trainer.progress=false"),
        model=["vit_nano"],
        residual=RESIDUALS[:2] if quick else RESIDUALS,
        data="digits",
        train=steps,
        seeds=seeds,
        seconds=seconds,
        threads=1,
        out=str(place),
    )
    rows = [_row(point) for point in answer.found["points"]]
    notes = [f"build/benchmarks/{place.name}/report.html"]
    # An order of the mechanisms is a result and no bar; that each learns is one.
    bars = [
        Bar(f"{row['residual']}, better than a guess", row["test accuracy, %"], 15.0, at_most=False)
        for row in rows if not quick
    ]  # fmt: skip
    bars.append(Bar("points that could not be built or trained", len(answer.found["refused"]), 0))
    return rows, bars, notes


def _row(point: dict[str, Any]) -> dict[str, Any]:
    tested = point["tested"]
    return {
        "residual": point["residual"],
        "parameters": point["parameters"],
        "MACs": point["macs"],
        "kept, MiB": round(point["kept_bytes"] / 2**20, 2),
        "peak, MiB": round(point["peak_bytes"] / 2**20, 2),
        "forward, ms": point["forward_ms"]["median"],
        "step, ms": point["step_ms"]["median"],
        "test accuracy, %": round(100 * tested["mean"], 2),
        "deviation": round(100 * tested["deviation"], 2),
        "seeds": tested["count"],
    }


if __name__ == "__main__":
    main("compare_digits", measure)
