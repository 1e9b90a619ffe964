"""The table of a report: what every group reached, and what it cost."""

from collections.abc import Mapping, Sequence

from .charts.markup import Markup, element, number
from .charts.palette import readable, series_colour
from .group_costs import COSTS
from .learning_curves import METRICS
from .run_groups import Group, summary

__all__ = ["result_table", "table"]

FURTHER = {
    "auc": "test AUC",
    "average_precision": "test average precision",
    "f1": "test F1",
    "macro_f1": "test macro F1",
}
"""What a test fold may be measured by beside the metric that chose, and its head."""


def result_table(groups: Sequence[Group], costs: Sequence[Mapping[str, float]]) -> Markup:
    """A row a group, the best first; figures and costs that no group has make no column."""
    kinds = [kind for kind in COSTS if any(kind.key in cost for cost in costs)]
    further = [name for name in FURTHER if any(group.reached("test", name) for group in groups)]
    heads = ["", "runs", "steps", "validation", "test", *(FURTHER[name] for name in further)]
    heads += [kind.head for kind in kinds]
    rows = []
    pairs = sorted(zip(groups, costs, strict=True), key=lambda pair: _order(pair[0]))
    for group, cost in pairs:
        _, scale = METRICS[group.metric]
        unit = " %" if scale == 100.0 else ""
        cells = [
            element("span", group.label, style=f"color:{readable(series_colour(group.index))}"),
            _runs(group),
            _steps(group),
            _scaled(group.reached("validation"), scale, unit),
            element("b", _scaled(group.reached("test"), scale, unit)),
            *(_scaled(group.reached("test", name), 1.0, "") for name in further),
            *(number(cost[kind.key]) if kind.key in cost else "" for kind in kinds),
        ]
        rows.append(cells)
    return table(heads, rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table that scrolls by itself where it is wider than the page; its first column stays."""
    head = element("tr", [element("th", text, scope="col") for text in heads])
    body = [
        element("tr", element("th", row[0], scope="row"), [element("td", c) for c in row[1:]])
        for row in rows
    ]
    inner = element("table", element("thead", head), element("tbody", body))
    return element("div", inner, class_="wide", tabindex="0", role="region", aria_label="table")


def _order(group: Group) -> tuple[str, float]:
    tested = group.tested()
    if tested is None:
        return group.metric, float("inf")
    return group.metric, tested.mean if group.metric == "bits_per_byte" else -tested.mean


def _scaled(values: Sequence[float], scale: float, unit: str) -> str:
    one = summary([scale * value for value in values])
    if one is None:
        return "–"
    digits = 2 if scale == 100.0 else 4
    spread = f" ± {one.deviation:.{digits}f}" if one.count > 1 else ""
    return f"{one.mean:.{digits}f}{spread}{unit}"


def _runs(group: Group) -> str:
    ended, all_ = len(group.ended), len(group.runs)
    return str(all_) if ended == all_ else f"{ended} of {all_} ended"


def _steps(group: Group) -> str:
    steps = [max((int(row["step"]) for row in run.rows), default=0) for run in group.runs]
    low, high = min(steps), max(steps)
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"
