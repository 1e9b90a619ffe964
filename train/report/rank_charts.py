"""Ranks of a low-rank run over its steps, and how the spectra of some weights change."""

from .charts.line_chart import Point, Series, line_chart
from .charts.markup import Markup
from .charts.palette import ramp
from .run_groups import Group

__all__ = ["rank_charts"]

SHOWN = 6  # weights with a line of their own


def rank_charts(group: Group) -> list[Markup]:
    """Charts of the first run of a group that noted ranks; none where no run did."""
    run = next((run for run in group.runs if run.ranks), None)
    if run is None:
        return []
    rows = run.ranks
    names = list(rows[-1]["ranks"])
    charts = []
    if names:
        last = len(names) - 1
        shown = sorted({round(i * last / max(1, SHOWN - 1)) for i in range(SHOWN)})
        lines = [
            Series(
                names[i],
                [Point(row["step"], row["ranks"][names[i]]) for row in rows
                 if names[i] in row["ranks"]],
                number,
                stairs=True,
            )
            for number, i in enumerate(shown)
        ]  # fmt: skip
        some = "" if len(shown) == len(names) else f"{len(shown)} of {len(names)} weights. "
        note = f"{some}{run.path.name}"
        title = f"{group.label}: ranks"
        charts.append(line_chart(title, lines, "step", "rank", zero=True, note=note))
    for name in rows[-1]["spectra"]:
        told = [(row["step"], row["spectra"][name]) for row in rows if name in row["spectra"]]
        picked = [told[i] for i in sorted({0, len(told) // 2, len(told) - 1})]
        lines = [
            Series(
                f"step {step}",
                [Point(i + 1, v) for i, v in enumerate(values) if v > 0],
                number,
                colour=ramp(0.85 - 0.75 * (number + 1) / len(picked)),
            )
            for number, (step, values) in enumerate(picked)
        ]
        title = f"{group.label}: spectrum of {name}"
        charts.append(line_chart(title, lines, "component", "singular value", log=True))
    return charts
