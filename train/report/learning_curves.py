"""Loss and metric over training, the mean of each group with its deviation over seeds."""

from collections.abc import Sequence

from .charts.line_chart import Point, Series, line_chart
from .charts.markup import Markup
from .run_groups import Group, Summary

__all__ = ["METRICS", "learning_curves"]

METRICS = {
    "accuracy": ("accuracy, %", 100.0),
    "bits_per_byte": ("bits per byte (less is better)", 1.0),
}
"""Name and scale of what chooses the best model."""


def learning_curves(groups: Sequence[Group]) -> list[Markup]:
    """Charts of training loss, validation loss and the metric; one of each metric that there is."""
    sizes = {_samples_per_step(group) for group in groups}
    per_step = len(sizes) == 1
    x_label = "step" if per_step else "samples seen"

    def series(split: str, metric: str, scale: float, chosen: Sequence[Group]) -> list[Series]:
        return [
            Series(
                group.label,
                [
                    _point(step * (1 if per_step else _samples_per_step(group)), one, scale)
                    for step, one in group.curve(split, metric).items()
                ],
                group.index,
            )
            for group in chosen
        ]

    charts = []
    for metric, (label, scale) in METRICS.items():
        chosen = [group for group in groups if group.metric == metric]
        lines = series("validation", metric, scale, chosen)
        if any(line.points for line in lines):
            charts.append(line_chart("Validation", lines, x_label, label))
    for split, title in (("train", "Training loss"), ("validation", "Validation loss")):
        lines = series(split, "loss", 1.0, groups)
        if any(line.points for line in lines):
            charts.append(line_chart(title, lines, x_label, "loss, nats", log=True))
    return charts


def _point(x: float, one: Summary, scale: float) -> Point:
    return Point(x, scale * one.mean, scale * one.deviation)


def _samples_per_step(group: Group) -> int:
    trainer = group.runs[0].config["trainer"]
    return trainer.get("batch_size", 1) * trainer.get("accumulate", 1)
