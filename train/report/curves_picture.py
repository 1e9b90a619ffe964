"""The curves of runs as a picture, drawn by matplotlib: what a README shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...zoo.inspect.plots import new_figure
from .run_record import RunRecord, read_run

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["draw_curves"]


def draw_curves(places: Sequence[Path]) -> "FigureBase":
    """Draw training loss beside the validation metric over steps, one line per run.

    Args:
        places: Run folders; accuracy, or bits per byte where a run has it.

    Returns:
        The figure, in no window.

    Raises:
        ValueError: a folder without metrics.
        ImportError: matplotlib is missing.
    """
    runs = [read_run(place) for place in places]
    for run in runs:
        if not run.rows:
            raise ValueError(
                f"{run.path} holds no metrics.csv; name a run folder with logger=[csv]"
            )
    figure = new_figure(9.0, 3.2)
    left, right = figure.subplots(1, 2)
    labels = []
    for run in runs:
        metric, scale, label = _metric(run)
        labels.append(label)
        name = run.path.name
        if run.result is not None:
            name += f" (test {scale * run.result['test'][metric]:.2f})"
        trained, tried = run.curve("train", "loss"), run.curve("validation", metric)
        left.plot(list(trained), list(trained.values()), lw=1)
        values = [scale * value for value in tried.values()]
        marker = "." if len(values) < 20 else None
        right.plot(list(tried), values, lw=1.4, marker=marker, label=name)
    left.set(xlabel="step", ylabel="training loss, nats", yscale="log")
    right.set(xlabel="step", ylabel=f"validation {labels[-1]}")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _metric(run: RunRecord) -> tuple[str, float, str]:
    if run.curve("validation", "bits_per_byte"):
        return "bits_per_byte", 1.0, "bits per byte"
    return "accuracy", 100.0, "accuracy, %"
