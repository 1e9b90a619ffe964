"""The table of docs/export.md is the kept result of benchmarks/exported.py."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "benchmarks/results/exported.json").read_text())


def line(row: dict[str, Any]) -> str:
    """A row of the page."""
    times = " | ".join(
        " / ".join(
            f"{row[f'{runtime}, ms at {batch}']:.2g}" for runtime in ("eager", "pt2", "onnx")
        )
        for batch in (1, 8)
    )
    differences = f"{row['pt2 difference']:.0e} | {row['onnx difference']:.0e}"
    size = f"{row['onnx, KB']:,}"
    return (
        f"| {row['family']} | `{row['model']}` | {differences} | {times} | {size} | "
        f"{row['export, s']:.0f} |"
    )


def test_the_page_has_every_row_of_the_kept_result():
    page = (ROOT / "docs/export.md").read_text()
    assert not RESULT["quick"] and all(bar["met"] for bar in RESULT["bars"])
    assert [line(row) for row in RESULT["rows"] if line(row) not in page] == []
