"""Draw ranks and spectra of a low-rank run.

The extra `plot` brings what draws:

    archzoo ranks RUN
    archzoo ranks RUN out=docs/ranks.png
    archzoo ranks RUN --json
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_line.answer import Answer
from ..errors import RunError
from ..report.rank_rows import read_ranks

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["draw_ranks", "ranks"]


def ranks(run: str, *, out: str = "ranks.png") -> Answer:
    """Draw the ranks that a run with `lowrank=` noted.

    Args:
        run: The run folder.
        out: The picture; its ending chooses the format.

    Raises:
        RunError: a folder without ranks, a name of no picture, or no matplotlib.
    """
    from ..command_line.picture_file import picture_file, save_picture

    try:
        rows = read_ranks(Path(run))
    except ValueError as error:
        raise RunError(str(error)) from error
    picture = picture_file(out)
    save_picture(draw_ranks(rows, Path(run).name), picture)
    noted = [{"step": row["step"], "ranks": row["ranks"]} for row in rows]
    return Answer({"picture": out, "evaluations": noted}, out)


def draw_ranks(rows: Sequence[Mapping[str, Any]], title: str) -> "FigureBase":
    """Draw the rank of every weight over steps, and how some spectra change.

    Args:
        rows: What a run noted, at least once.
        title: Of the picture.

    Returns:
        The figure, in no window.
    """
    import matplotlib

    from ...zoo.inspect import new_figure

    steps = [row["step"] for row in rows]
    spectra = [name for name in rows[-1]["spectra"] if all(name in r["spectra"] for r in rows)]
    # The first, the middle and the last weight.
    shown = (
        [spectra[i] for i in sorted({0, len(spectra) // 2, len(spectra) - 1})] if spectra else []
    )
    width = 1 + len(shown)
    figure = new_figure(4.6 + 3.0 * len(shown), 3.6)
    grid = figure.subplots(1, width, squeeze=False)
    names = list(rows[-1]["ranks"])
    axes = grid[0][0]
    colours = matplotlib.colormaps["viridis"]
    for i, name in enumerate(names):
        colour = colours(i / max(1, len(names) - 1))
        values = [row["ranks"].get(name) for row in rows]
        axes.plot(steps, values, lw=1.2, marker=".", color=colour, label=name)
    axes.set(xlabel="step", ylabel="rank", title=title)
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
    return figure
