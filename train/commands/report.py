"""Draw the curves of one or more runs.

The extra `plot` brings what draws:

    archzoo report RUN
    archzoo report runs/a runs/b out=curves.png
"""

import csv
import json
from pathlib import Path

from ..command_line.answer import Answer
from ..errors import RunError, UsageError

__all__ = ["draw", "read_metrics", "report"]


def report(*runs: str, out: str = "curves.png") -> Answer:
    """Draw the training loss and the validation metric of runs.

    Args:
        runs: Run folders.
        out: The picture; its ending chooses the format.

    Raises:
        RunError: a folder without metrics, or no matplotlib.
    """
    if not runs:
        raise UsageError("name run folders, such as archzoo report runs/*")
    try:
        draw(list(map(Path, runs)), Path(out))
    except ModuleNotFoundError as error:
        raise RunError('a picture needs matplotlib; pip install "archzoo[plot]"') from error
    except ValueError as error:
        raise RunError(str(error)) from error
    return Answer({"picture": out, "runs": list(runs)}, out)


def read_metrics(run: Path) -> list[dict[str, str]]:
    """Read the rows of a run's `metrics.csv`.

    Raises:
        ValueError: there is none.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        raise ValueError(f"{run} holds no metrics.csv; name a run folder with logger=[csv]")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def draw(runs: list[Path], out: Path) -> None:
    """Draw training loss beside validation metric over steps, one line per run.

    Args:
        runs: Run folders; accuracy, or bits per byte where a run has it.
        out: The picture; its ending chooses the format.

    Raises:
        ValueError: a folder without metrics.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    label = "accuracy, %"
    for run in runs:
        rows = read_metrics(run)
        training = [row for row in rows if row["split"] == "train"]
        validation = [row for row in rows if row["split"] == "validation"]
        name, tested = run.name, ""
        metric, scale = ("bits_per_byte", 1.0) if "bits_per_byte" in rows[0] else ("accuracy", 100)
        label = "bits per byte" if metric == "bits_per_byte" else label
        if (run / "result.json").is_file():
            result = json.loads((run / "result.json").read_text())
            tested = f" (test {scale * result['test'][metric]:.2f})"
        left.plot([int(r["step"]) for r in training], [float(r["loss"]) for r in training], lw=1)
        right.plot(
            [int(r["step"]) for r in validation],
            [scale * float(r[metric]) for r in validation],
            lw=1.4,
            marker="." if len(validation) < 20 else None,
            label=name + tested,
        )
    left.set(xlabel="step", ylabel="training loss, nats", yscale="log")
    right.set(xlabel="step", ylabel=f"validation {label}")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)
