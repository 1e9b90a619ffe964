"""Picture of the way between two networks. It needs matplotlib: `pip install "archzoo[plot]"`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..inspect.plots import new_figure
from .interpolation import Barrier

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["plot_barriers"]


def plot_barriers(
    ways: Mapping[str, Barrier], *, figure: "FigureBase | None" = None
) -> "FigureBase":
    """Draw loss and accuracy from one network to another.

    Args:
        ways: What `barrier` returned, by the name that the legend shows.
        figure: An empty figure or sub-figure to draw into; a new one if not given.

    Returns:
        The figure, in no window; `figure.savefig(path)` writes it.

    Raises:
        ValueError: no way.
        ImportError: matplotlib is missing.
    """
    if not ways:
        raise ValueError("give at least one way to draw")
    figure = new_figure(9.0, 3.2) if figure is None else figure
    left, right = figure.subplots(1, 2)
    for name, way in ways.items():
        left.plot(way.t, way.loss, lw=1.4, marker=".", label=name)
        right.plot(way.t, [100 * each for each in way.accuracy], lw=1.4, marker=".", label=name)
    left.set(xlabel="share of the second network", ylabel="loss, nats")
    right.set(xlabel="share of the second network", ylabel="accuracy, %")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
