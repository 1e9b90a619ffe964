"""Draw ranks and spectra of a low-rank run.

The extra `plot` brings what draws:

    archzoo ranks RUN
    archzoo ranks RUN out=docs/ranks.png
    archzoo ranks RUN --json
"""

from pathlib import Path

from ..command_line.answer import Answer
from ..errors import RunError
from ..report.rank_rows import read_ranks

__all__ = ["draw", "ranks"]


def ranks(run: str, *, out: str = "ranks.png") -> Answer:
    """Draw the ranks that a run with `lowrank=` noted.

    Args:
        run: The run folder.
        out: The picture; its ending chooses the format.

    Raises:
        RunError: a folder without ranks, or no matplotlib.
    """
    folder = Path(run)
    try:
        draw(folder, Path(out))
    except ModuleNotFoundError as error:
        raise RunError('a picture needs matplotlib; pip install "archzoo[plot]"') from error
    except ValueError as error:
        raise RunError(str(error)) from error
    rows = [{"step": row["step"], "ranks": row["ranks"]} for row in read_ranks(folder)]
    return Answer({"picture": out, "evaluations": rows}, out)


def draw(run: Path, out: Path) -> None:
    """Draw the rank of every weight over steps, and how some spectra change.

    Args:
        run: A run's folder.
        out: The picture; its ending chooses the format.

    Raises:
        ValueError: a folder without ranks.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_ranks(run)
    steps = [row["step"] for row in rows]
    spectra = [name for name in rows[-1]["spectra"] if all(name in r["spectra"] for r in rows)]
    # The first, the middle and the last weight.
    shown = (
        [spectra[i] for i in sorted({0, len(spectra) // 2, len(spectra) - 1})] if spectra else []
    )
    width = 1 + len(shown)
    figure, grid = pyplot.subplots(
        1, width, figsize=(4.6 + 3.0 * len(shown), 3.6), layout="constrained", squeeze=False
    )
    names = list(rows[-1]["ranks"])
    axes = grid[0][0]
    colours = pyplot.get_cmap("viridis")
    for i, name in enumerate(names):
        colour = colours(i / max(1, len(names) - 1))
        values = [row["ranks"].get(name) for row in rows]
        axes.plot(steps, values, lw=1.2, marker=".", color=colour, label=name)
    axes.set(xlabel="step", ylabel="rank", title=run.name)
    axes.set_ylim(bottom=0)
    if len(names) <= 10:
        axes.legend(frameon=False, fontsize=6)
    for axes, name in zip(grid[0][1:], shown, strict=True):
        for i, row in enumerate(rows):
            values = [v for v in row["spectra"][name] if v > 0]
            colour = colours(i / max(1, len(rows) - 1))
            label = f"step {row['step']}" if i in (0, len(rows) - 1) else None
            axes.plot(range(1, len(values) + 1), values, lw=1.2, color=colour, label=label)
        axes.set(xlabel="component", ylabel="singular value", yscale="log", title=name)
        axes.title.set_fontsize(8)
        axes.legend(frameon=False, fontsize=7)
    for axes in grid[0]:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)
