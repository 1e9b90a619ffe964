"""What was logged over training, the mean of each group with its deviation over runs."""

from collections.abc import Sequence

from .charts.line_chart import Point, Series, line_chart
from .charts.markup import Markup
from .run_groups import Group

__all__ = ["METRICS", "further_curves", "learning_curves"]

METRICS = {
    "accuracy": ("accuracy, %", 100.0),
    "bits_per_byte": ("bits per byte (less is better)", 1.0),
}
"""Name and scale of what chooses the best model."""

COLUMNS = {"step", "split"}
SHOWN: dict[str, set[str] | None] = {
    "train": {"loss", "lr", "epoch", "samples_per_second"},
    "validation": {"loss", *METRICS},
    "test": None,  # one number, which the table has
}
"""What has its own chart or is of no interest; None is all of a split."""


def learning_curves(groups: Sequence[Group]) -> list[Markup]:
    """Charts of training loss, validation loss and the metric; one of each metric that there is."""
    charts = []
    for metric, (label, scale) in METRICS.items():
        chosen = [group for group in groups if group.metric == metric]
        charts += _chart("Validation", chosen, "validation", metric, label, scale)
    for split, title in (("train", "Training loss"), ("validation", "Validation loss")):
        charts += _chart(title, groups, split, "loss", "loss, nats", log=True)
    return charts


def further_curves(groups: Sequence[Group]) -> list[Markup]:
    """A chart of everything else that callbacks logged, such as curvatures and mean ranks."""
    found: dict[tuple[str, str], None] = {}
    for group in groups:
        for run in group.runs:
            for row in run.rows:
                shown = SHOWN.get(row["split"], set())
                if shown is not None:
                    names = (n for n, value in row.items() if value and n not in COLUMNS | shown)
                    found |= {(row["split"], name): None for name in names}
    charts = []
    for split, metric in found:
        name = metric.replace("_", " ")
        charts += _chart(f"{split}: {name}", groups, split, metric, name)
    return charts


def _chart(
    title: str,
    groups: Sequence[Group],
    split: str,
    metric: str,
    label: str,
    scale: float = 1.0,
    *,
    log: bool = False,
) -> list[Markup]:
    """A chart of a metric; none where no group logged it."""
    per_step = len({_samples_per_step(group) for group in groups}) == 1
    lines = []
    for group in groups:
        width = 1 if per_step else _samples_per_step(group)
        curve = group.curve(split, metric)
        points = [
            Point(width * step, scale * one.mean, scale * one.deviation)
            for step, one in curve.items()
        ]
        lines.append(Series(group.label, points, group.index))
    if not any(line.points for line in lines):
        return []
    x_label = "step" if per_step else "samples seen"
    return [line_chart(title, lines, x_label, label, log=log)]


def _samples_per_step(group: Group) -> int:
    trainer = group.runs[0].config["trainer"]
    return trainer.get("batch_size", 1) * trainer.get("accumulate", 1)
