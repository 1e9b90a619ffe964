"""Pictures of what `depth_mixing` measures. They need matplotlib: `pip install "archzoo[plot]"`."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...layers.residual import Site
from .depth_mixing import Trace

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["new_figure", "plot_depth_mixing", "plot_magnitudes"]

CAUTION = "Routing mass is not causal importance (arXiv:2606.13168)."


def plot_depth_mixing(
    matrices: Tensor | Mapping[str, Tensor],
    sites: Sequence[Site] | None = None,
    *,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Draw one or more depth mixing matrices as heat maps on one colour scale.

    Args:
        matrices: What `depth_mixing_matrix` returned, or a mapping from titles to such.
        sites: The sites, to name the rows by their branches; numbers if not given.
        figure: An empty figure or sub-figure to draw into; a new one if not given.

    Returns:
        The figure, in no window; `figure.savefig(path)` writes it.

    Raises:
        ValueError: no matrix, or one that is not square with a row more than there are sites.
        ImportError: matplotlib is missing.
    """
    named = {"": matrices} if isinstance(matrices, Tensor) else dict(matrices)
    if not named:
        raise ValueError("give at least one matrix to draw")
    for matrix in named.values():
        size = len(matrix) if sites is None else len(sites) + 1
        if matrix.shape != (size, size):
            raise ValueError(f"a matrix must be {size} × {size}, got {tuple(matrix.shape)}")
    figure = new_figure(3.9 * len(named) + 0.8, 4.2) if figure is None else figure
    grid = figure.subplots(1, len(named), squeeze=False)[0]
    most = max(float(matrix.abs().max()) for matrix in named.values())
    signed = any(bool((matrix < 0).any()) for matrix in named.values())
    colours = {"vmin": -most, "cmap": "RdBu_r"} if signed else {"vmin": 0.0, "cmap": "viridis"}
    picture: Any = None
    for axes, (title, matrix) in zip(grid, named.items(), strict=True):
        last = len(matrix) - 1
        # What lies above the diagonal cannot be read and stays blank.
        shown = matrix.detach().double().cpu()
        above = shown.new_ones(shown.shape).triu(1).bool()
        picture = axes.imshow(shown.masked_fill(above, math.nan).numpy(), vmax=most, **colours)
        kinds = [str(i) for i in range(last)] if sites is None else [site.kind for site in sites]
        axes.set(title=title, xlabel="source: 0 is the embedding", ylabel="read by")
        axes.set_yticks(range(last + 1), [*kinds, "close"], fontsize=7)
        axes.set_xticks(range(0, last + 1, 1 + last // 12))
    figure.colorbar(picture, ax=list(grid), shrink=0.8, label="share of the source")
    figure.supxlabel(CAUTION, fontsize=8)
    return figure


def plot_magnitudes(
    traces: Mapping[str, Trace], *, figure: "FigureBase | None" = None
) -> "FigureBase":
    """Draw the size of every branch's output, and of the gradient there, for several models.

    Args:
        traces: What `trace` returned, by the name that the legend shows.
        figure: An empty figure or sub-figure to draw into; a new one if not given.

    Returns:
        The figure, in no window; `figure.savefig(path)` writes it.

    Raises:
        ValueError: no trace.
        ImportError: matplotlib is missing.
    """
    if not traces:
        raise ValueError("give at least one trace to draw")
    figure = new_figure(9.0, 3.2) if figure is None else figure
    left, right = figure.subplots(1, 2)
    for name, found in traces.items():
        places = range(1, len(found.sites) + 1)
        left.plot(places, found.output.tolist(), lw=1.4, marker=".", label=name)
        right.plot(places, found.gradient.tolist(), lw=1.4, marker=".", label=name)
    left.set(xlabel="branch", ylabel="output, root mean square", ylim=(0.0, None))
    right.set(xlabel="branch", ylabel="gradient at the output, L2 norm", yscale="log")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def new_figure(width: float, height: float) -> "FigureBase":
    """Make an empty figure without pyplot, which would keep it and may want a screen."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "archzoo[plot]"') from error
    return Figure(figsize=(width, height), layout="constrained")
