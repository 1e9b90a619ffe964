"""Charts of what models look like inside."""

from collections.abc import Mapping, Sequence

from .charts.line_chart import Point, Series, line_chart
from .charts.markup import Markup
from .charts.matrix_chart import disk_chart, matrix_chart
from .model_views import ModelView
from .run_groups import Group

__all__ = ["disk_charts", "gate_charts", "mixing_charts"]

Views = Mapping[str, ModelView]
"""By the label of the group."""


def mixing_charts(views: Views) -> list[Markup]:
    """Depth-mixing matrices, each on a colour scale of its own: mechanisms differ tenfold."""
    return [
        matrix_chart(f"{label}{', ' if mixing.title else ''}{mixing.title}", mixing.matrix,
                     mixing.rows)
        for label, view in views.items()
        for mixing in view.mixing
    ]  # fmt: skip


def gate_charts(groups: Sequence[Group], views: Views) -> list[Markup]:
    """Gates β of delta residuals, and how far each write leaves the target, over depth."""
    index = {group.label: group.index for group in groups}
    gated = {label: view.gates for label, view in views.items() if view.gates}
    if not gated:
        return []
    lines = [
        Series(label, [Point(i + 1, gate.beta) for i, gate in enumerate(gates)], index[label])
        for label, gates in gated.items()
    ]
    note = "0 keeps the stream, 1 projects, 2 reflects."
    charts = [line_chart("Gate β of every write", lines, "branch", "mean β", zero=True, note=note)]
    for label, gates in gated.items():
        lines = [
            Series(name, [Point(i + 1, getattr(g, key)) for i, g in enumerate(gates)], number)
            for number, (name, key) in enumerate((("before", "before"), ("after", "after")))
        ]
        title = f"{label}: distance from the target"
        charts.append(line_chart(title, lines, "branch", "mean ‖r − v‖", zero=True))
    return charts


def disk_charts(views: Views) -> list[Markup]:
    """Poincaré disks of the models that have a ball."""
    return [
        disk_chart(label, view.disk.points, view.disk.labels, view.disk.names, view.disk.note)
        for label, view in views.items()
        if view.disk is not None
    ]
