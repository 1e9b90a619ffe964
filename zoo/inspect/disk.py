"""Pictures in the Poincaré disk: features, and trees with geodesic edges. They need matplotlib.

Points come from a ball of any curvature and dimension. They are drawn in the unit disk: radii are
multiplied by √c, so that the rim is at infinity for every c. In two dimensions nothing else happens
to them; in more, `project_to_disk` keeps the distance from the origin and flattens directions.
"""

# Shape letters: N points, D their dimension, E edges.

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...layers.hyperbolic import check_curvature, check_points, poincare
from .plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["geodesic_arc", "plot_disk", "plot_tree", "project_to_disk"]

# A chord whose ends lie on a line with the origin to this share bends by less than a pixel.
STRAIGHT = 1e-7


def project_to_disk(points: Tensor, curvature: float = 1.0) -> Tensor:
    """Map points of a ball to the unit disk, each at its own distance from the origin.

    With t = log₀(x) and V the two principal directions of all t (uncentred, so that the origin
    stays what it is), a point goes to √c‖x‖ in the direction of Vᵀt. Two dimensions are only
    scaled. In more, distances between points are not kept: points that differ in a lost direction
    come to lie on each other. One that has nothing along V goes to the first axis.

    Args:
        points: (N, D), N ≥ 1 and D ≥ 2, inside the ball of radius 1/√c.
        curvature: c.

    Returns:
        (N, 2) in float64, inside the unit disk.

    Raises:
        ValueError: another shape, points outside the ball, or a curvature that is not positive.
    """
    if points.dim() != 2 or points.shape[1] < 2 or not len(points):
        raise ValueError(f"points must be (N, D) with D of at least 2, got {tuple(points.shape)}")
    check_curvature(curvature)
    check_points(points, curvature)
    x = points.detach().double().cpu() * math.sqrt(curvature)
    if x.shape[1] == 2:
        return x
    t = poincare.logmap0(x, 1.0, margin=0.0)
    _, _, directions = torch.linalg.svd(t, full_matrices=False)
    if len(directions) < 2:  # one point has one direction
        directions = torch.cat([directions, torch.zeros_like(directions)])
    directions = directions[:2]
    # The sign of a principal direction is arbitrary; here its largest entry is positive.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    along = t @ (directions * torch.where(largest < 0, -1.0, 1.0)).mT
    length = along.norm(dim=1, keepdim=True)
    first = torch.tensor([1.0, 0.0], dtype=x.dtype)
    direction = torch.where(length > 0, along / torch.where(length > 0, length, 1.0), first)
    return x.norm(dim=1, keepdim=True) * direction


def geodesic_arc(start: Tensor, end: Tensor, count: int = 33) -> Tensor:
    """Return points along the geodesics of the unit disk between pairs of points.

    A geodesic is an arc of the circle through both that meets the rim at right angles,

        ‖m‖² = 1 + r²,   2⟨m, p⟩ = 1 + ‖p‖²,   2⟨m, q⟩ = 1 + ‖q‖²,

    or the chord, where p, q and the origin lie on a line. Points are equally spaced to the eye.

    Args:
        start: p (E, 2), float64, inside the unit disk.
        end: q (E, 2).
        count: Points on each, at least 2.

    Returns:
        (E, count, 2), from p to q.
    """
    share = torch.linspace(0.0, 1.0, count, dtype=start.dtype)
    chord = start[:, None] + share[:, None] * (end - start)[:, None]
    determinant = start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0]
    straight = determinant.abs() < STRAIGHT
    matrix = torch.stack([start, end], 1)
    matrix = torch.where(straight[:, None, None], torch.eye(2, dtype=start.dtype), matrix)
    middle = torch.linalg.solve(matrix, (1 + torch.stack([start, end], 1).square().sum(-1)) / 2)
    radius = (middle.square().sum(-1) - 1).clamp_min(0.0).sqrt()
    first, last = (torch.atan2(*(point - middle).flip(-1).unbind(-1)) for point in (start, end))
    turn = torch.remainder(last - first + math.pi, 2 * math.pi) - math.pi  # the short way round
    angle = first[:, None] + share * turn[:, None]
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    arc = middle[:, None] + radius[:, None, None] * circle
    return torch.where(straight[:, None, None], chord, arc)


def plot_disk(
    points: Tensor,
    labels: Tensor | Sequence[Any] | None = None,
    curvature: float = 1.0,
    *,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Draw points of a ball in the Poincaré disk, coloured by label.

    Features of a network are tangents at the origin; `poincare.expmap0(t, c)` makes them points.

    Args:
        points: (N, D), inside the ball; more than two dimensions go through `project_to_disk`.
        labels: One for each point; None draws all alike.
        curvature: c.
        figure: An empty figure or sub-figure to draw into; a new one if not given.

    Returns:
        The figure, in no window; `figure.savefig(path)` writes it.

    Raises:
        ValueError: what `project_to_disk` refuses, or another number of labels.
        ImportError: matplotlib is missing.
    """
    flat = project_to_disk(points, curvature)
    named = None if labels is None else [_plain(label) for label in labels]
    if named is not None and len(named) != len(flat):
        raise ValueError(f"labels must be as many as points, {len(flat)}, got {len(named)}")
    figure = new_figure(5.2, 4.4) if figure is None else figure
    axes = _disk(figure, points.shape[1])
    kinds = [None] if named is None else sorted(set(named), key=lambda v: (str(type(v)), v))
    colours = _colours(len(kinds))
    for kind, colour in zip(kinds, colours, strict=True):
        rows = [i for i in range(len(flat)) if named is None or named[i] == kind]
        place = flat[rows].numpy()
        label = None if kind is None else str(kind)
        size = 30 if len(flat) < 300 else 10
        axes.scatter(*place.T, s=size, color=colour, lw=0, alpha=0.75, label=label, zorder=2)
    if named is not None:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_tree(
    points: Tensor,
    edges: Tensor | Sequence[tuple[int, int]],
    labels: Sequence[str] | Mapping[int, str] | None = None,
    curvature: float = 1.0,
    *,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Draw an embedded tree or graph in the Poincaré disk, its edges as geodesic arcs.

    Args:
        points: (N, D), inside the ball; more than two dimensions go through `project_to_disk`.
        edges: (E, 2), pairs of row numbers.
        labels: A text for each point, or for some, by row number.
        curvature: c.
        figure: An empty figure or sub-figure to draw into; a new one if not given.

    Returns:
        The figure, in no window; `figure.savefig(path)` writes it.

    Raises:
        ValueError: what `project_to_disk` refuses, edges or labels of points that are not there.
        ImportError: matplotlib is missing.
    """
    flat = project_to_disk(points, curvature)
    pairs = torch.as_tensor(edges, dtype=torch.long).view(-1, 2).cpu()
    if len(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) < len(flat):
        raise ValueError(
            f"edges must join rows 0, …, {len(flat) - 1}, got {int(pairs.min())} to "
            f"{int(pairs.max())}"
        )
    if labels is not None and not isinstance(labels, Mapping) and len(labels) != len(flat):
        raise ValueError(f"labels must be as many as points, {len(flat)}, got {len(labels)}")
    named = dict(labels if isinstance(labels, Mapping) else enumerate(labels or ()))
    strange = [row for row in named if not 0 <= row < len(flat)]
    if strange:
        raise ValueError(f"labels name row {strange[0]}, but there are {len(flat)} points")
    figure = new_figure(5.0, 5.0) if figure is None else figure
    axes = _disk(figure, points.shape[1])
    from matplotlib.collections import LineCollection

    arcs = geodesic_arc(flat[pairs[:, 0]], flat[pairs[:, 1]])
    axes.add_collection(LineCollection(list(arcs.numpy()), colors="0.55", lw=0.7, zorder=1))
    size = 24 if len(flat) < 150 else 5
    axes.scatter(*flat.numpy().T, s=size, color="tab:blue", lw=0, zorder=2)
    for row, text in named.items():
        x, y = flat[row].tolist()
        axes.annotate(text, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7, zorder=3)
    return figure


def _disk(figure: "FigureBase", dimension: int) -> Any:
    """Make axes with the rim of the disk, which says where more dimensions went."""
    from matplotlib.patches import Circle

    axes: Any = figure.subplots()
    axes.add_patch(Circle((0.0, 0.0), 1.0, fill=False, color="0.3", lw=1.0))
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), aspect="equal")
    axes.axis("off")
    if dimension > 2:
        note = f"{dimension} dimensions: radii are kept, directions projected on two"
        figure.supxlabel(note, fontsize=8)
    return axes


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    return [colormaps["turbo"]((i + 0.5) / count) for i in range(count)]


def _plain(label: Any) -> Any:
    """A number or string of a tensor or an array."""
    return label.item() if hasattr(label, "item") else label
