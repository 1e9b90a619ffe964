"""A comparison as a table on the screen, as CSV and as JSON."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...zoo.share.atomic_write import replacing
from ..command_line.table import aligned
from ..engine.metrics import headline
from ..report.run_groups import Summary, summary
from .comparison import Comparison, Row
from .measured_costs import Spread

__all__ = ["found_of", "table", "write_files"]

MIB = 2.0**20
SIZES = (
    ("parameters", "parameters", 1.0),
    ("macs", "MACs", 1.0),
    ("kept_bytes", "kept, MiB", MIB),
    ("peak_bytes", "peak, MiB", MIB),
)
TIMES = (("forward_ms", "forward, ms"), ("step_ms", "step, ms"), ("decode_ms", "token, ms"))


def found_of(comparison: Comparison, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was found, as JSON holds it.

    Args:
        comparison: The rows.
        about: How they were measured.
    """
    points = []
    for row in comparison.rows:
        tested = _tested(row)
        points.append(
            {
                "point": row.point.label,
                **row.point.values,
                **row.costs(),
                "tested": None if tested is None else dataclasses.asdict(tested),
                "runs": [dataclasses.asdict(one) for one in row.trained],
            }
        )
    refused = [{"point": label, "reason": why} for label, why in comparison.refused.items()]
    return {**about, "batch": comparison.batch, "points": points, "refused": refused}


def table(comparison: Comparison) -> str:
    """The rows for a reader, with the points that have none below."""
    rows = comparison.rows
    sizes = [(key, head, unit) for key, head, unit in SIZES if rows]
    times = [(key, head) for key, head in TIMES if any(key in row.times for row in rows)]
    trained = any(row.trained for row in rows)
    heads = ["point", *(head for _, head, _ in sizes), *(head for _, head in times)]
    if trained:
        heads += [f"test {_metric(rows)}", "runs"]
    cells = [heads]
    for row in rows:
        line = [row.point.label]
        line += [_size(row.sizes[key] / unit, unit) for key, _, unit in sizes]
        line += [_time(row.times.get(key)) for key, _ in times]
        line += [_result(row), str(len(row.trained))] if trained else []
        cells.append(line)
    lines = aligned(cells, left=1)
    if comparison.refused:
        lines += ["", "not there:"]
        lines += [f"  {label}: {why}" for label, why in comparison.refused.items()]
    return "\n".join(lines if rows else lines[1:]).strip("\n")


def write_files(found: Mapping[str, Any], folder: Path) -> None:
    """Write `compare.json` and `compare.csv`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    for name, content in (("compare.json", text), ("compare.csv", _csv(found))):
        with replacing(folder / name) as temporary:
            temporary.write_text(content)


def _csv(found: Mapping[str, Any]) -> str:
    """A row a point; a time has its median under its name and its quartiles beside it."""
    rows = []
    for point in found["points"]:
        row = {}
        for key, value in point.items():
            if key == "runs":
                continue
            if isinstance(value, Mapping) and "median" in value:
                row |= {key: value["median"]}
                row |= {f"{key}_{part}": value[part] for part in ("low", "high", "count")}
            elif key == "tested":
                parts = ("mean", "deviation", "count")
                row |= {f"test_{part}": (value or {}).get(part) for part in parts}
            else:
                row[key] = json.dumps(value) if isinstance(value, Mapping) else value
        rows.append(row)
    rows += [dict(one) for one in found["refused"]]
    file = io.StringIO(newline="")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(file, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _metric(rows: Sequence[Row]) -> str:
    tested = next(one.test for row in rows for one in row.trained)
    return "bits/byte" if headline(tested) == "bits_per_byte" else "accuracy, %"


def _tested(row: Row) -> Summary | None:
    """The metric that chooses the best model, on the test fold."""
    return summary([one.test[headline(one.test)] for one in row.trained])


def _result(row: Row) -> str:
    one = _tested(row)
    if one is None:
        return ""
    bits = headline(row.trained[0].test) == "bits_per_byte"
    scale, digits = (1.0, 4) if bits else (100.0, 2)
    spread = f" ± {scale * one.deviation:.{digits}f}" if one.count > 1 else ""
    return f"{scale * one.mean:.{digits}f}{spread}"


def _size(value: float, unit: float) -> str:
    return f"{value:,.0f}" if unit == 1.0 else f"{value:.2f}"


def _time(spread: Spread | None) -> str:
    """The median, with the distance of the quartiles."""
    if spread is None:
        return ""
    return f"{spread.median:.3g} ± {(spread.high - spread.low) / 2:.1g}"
