"""Adapters, as far as they were measured: bars and claims of all parts, off their kept results.

Every part is a script of its own, which runs what is missing and keeps its result with `--keep`;
this one puts them side by side and judges their bars. With `--quick` it adapts a tiny GPT by all
presets, and reads nothing.
"""

import json
from typing import Any

import adapter_novels
from harness import RESULTS, Bar, Measurement, main

PARTS = (
    "adapter_novels",
    "adapter_ranks",
    "adapter_bits",
    "adapter_merging",
    "adapter_tasks",
    "adapter_images",
    "adapter_speed",
)


def kept(name: str) -> dict[str, Any]:
    """The kept result of a part.

    Raises:
        SystemExit: there is none.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"{path.name} is not there; run python benchmarks/{name}.py --keep first")
    return json.loads(path.read_text())


def measure(quick: bool) -> Measurement:
    """Read all parts, and judge their bars and count their claims."""
    if quick:
        return adapter_novels.measure(True)
    rows, bars = [], []
    for name in PARTS:
        found = kept(name)
        claims = [row["reproduced"] for row in found["rows"] if "claim" in row]
        rows.append(
            {
                "part": name,
                "rows": len(found["rows"]),
                "bars met": f"{sum(bar['met'] for bar in found['bars'])} of {len(found['bars'])}",
                "claims reproduced": f"{sum(claims)} of {len(claims)}" if claims else "",
            }
        )
        bars += [
            Bar(f"{name}: {bar['what']}", bar["figure"], bar["limit"], bar["at_most"])
            for bar in found["bars"]
        ]
    return rows, bars


if __name__ == "__main__":
    main("adapters", measure)
