"""Certified and attacked accuracy against the radius, of runs that were certified or attacked."""

from collections.abc import Mapping, Sequence
from typing import Any

from .charts.line_chart import Point, Series, line_chart
from .charts.markup import Markup
from .run_groups import Group

__all__ = ["certified_curves"]

GRID = 120
UNIT = 255.0


def certified_curves(groups: Sequence[Group]) -> list[Markup]:
    """A chart of certified accuracy in each norm, and one of accuracy under attack."""
    certified: dict[str, list[Series]] = {}
    attacked: dict[str, list[Series]] = {}
    for group in groups:
        for run in group.runs:
            many = sum(one.certificate is not None for one in group.runs) > 1
            label = f"{group.label} {run.path.name}" if many else group.label
            if run.certificate is not None:
                norm = str(run.certificate.get("norm", "l2"))
                points = _certified(run.certificate)
                certified.setdefault(norm, []).append(Series(label, points, group.index))
                tried = _accuracies(run.certificate, "attacked_accuracy", UNIT, "clean_accuracy")
                attacked.setdefault(norm, []).append(Series(label, tried, group.index))
            if run.robustness is not None:
                attack = run.robustness.get("attack") or {}
                tried = _accuracies(run.robustness, "attacked", 1.0, "clean")
                name = f"{label}, {str(attack.get('method', 'attack')).upper()}"
                norm = str(attack.get("norm", "l2"))
                attacked.setdefault(norm, []).append(Series(name, tried, group.index))
    return [
        line_chart(f"{title} ({norm})", lines, "radius · 255", "accuracy, %", zero=True)
        for title, found in (("Certified accuracy", certified), ("Accuracy under attack", attacked))
        for norm, lines in found.items()
        if any(one.points for one in lines)
    ]


def _certified(certificate: Mapping[str, Any]) -> list[Point]:
    """The share of samples that are right and have a radius above ε, over all ε."""
    radii, correct = certificate.get("radius"), certificate.get("correct")
    if not radii or not correct or len(radii) != len(correct):
        return _accuracies(certificate, "certified_accuracy", UNIT, "clean_accuracy")
    kept = sorted(float(r) for r, right in zip(radii, correct, strict=True) if right)
    asked = [float(row["eps"]) for row in certificate.get("certified_accuracy") or ()]
    finite = [r for r in kept if r != float("inf")]
    last = 1.1 * max([*asked, *finite[: int(0.98 * len(finite)) + 1]], default=1.0)
    grid = [last * i / GRID for i in range(GRID + 1)]
    return [Point(UNIT * e, 100 * sum(r > e for r in kept) / len(radii)) for e in grid]


def _accuracies(found: Mapping[str, Any], key: str, unit: float, clean: str) -> list[Point]:
    rows = found.get(key) or []
    if not rows:
        return []
    points = [Point(unit * float(row["eps"]), 100 * float(row["accuracy"])) for row in rows]
    start = found.get(clean)
    return points if start is None else [Point(0.0, 100 * float(start)), *points]
