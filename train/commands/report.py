"""Draw the curves of one or more runs.

Run as `python -m archzoo.train.commands.report RUN… --out curves.png`.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

__all__ = ["draw", "main", "read_metrics"]


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


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(prog="archzoo.train.commands.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture")
    arguments = parser.parse_args()
    try:
        draw(arguments.runs, arguments.out)
    except ModuleNotFoundError:
        sys.exit('archzoo.train.commands.report: needs matplotlib; pip install "archzoo[plot]"')
    except ValueError as error:
        sys.exit(f"archzoo.train.commands.report: {error}")
    print(arguments.out)


if __name__ == "__main__":
    main()
