"""Matrices as heat maps, and points in the Poincaré disk."""

from collections.abc import Sequence

from .chart_frame import GREY, figure
from .markup import Markup, element, number
from .palette import ramp, series_colour

__all__ = ["disk_chart", "matrix_chart"]

SIDE = 250.0


def matrix_chart(title: str, matrix: Sequence[Sequence[float]], rows: Sequence[str]) -> Markup:
    """Draw the lower triangle of a depth-mixing matrix; blue to red where some entry is negative.

    Args:
        title: Above it.
        matrix: Square; what lies above the diagonal cannot be read and stays blank.
        rows: Their names.
    """
    size = len(matrix)
    values = [value for i, row in enumerate(matrix) for value in row[: i + 1]]
    most = max(map(abs, values), default=1.0)
    signed = min(values, default=0.0) < -1e-3 * most  # not for the rounding of a zero
    cell, left, top = SIDE / size, 62.0, 6.0
    drawn: list[Markup] = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row[: i + 1]):
            drawn.append(
                element(
                    "rect",
                    element("title", f"{rows[i]} reads {number(value, 3)} of source {j}"),
                    x=left + j * cell,
                    y=top + i * cell,
                    width=cell,
                    height=cell,
                    fill=ramp(value / most if most else 0.0, signed),
                )  # fmt: skip
            )
    every = 1 + size // 17
    for i in range(0, size, every):
        middle = top + (i + 0.5) * cell + 3.5
        drawn.append(element("text", rows[i], x=left - 4, y=middle, text_anchor="end", font_size=9))
        at = left + (i + 0.5) * cell
        drawn.append(
            element("text", str(i), x=at, y=top + SIDE + 12, text_anchor="middle", font_size=9)
        )
    drawn.append(
        element(
            "text",
            "source (0 is the embedding)",
            x=left + SIDE / 2,
            y=top + SIDE + 27,
            text_anchor="middle",
        )  # fmt: skip
    )
    low = -most if signed else 0.0
    for i in range(40):  # the colour scale
        share = (i + 0.5) / 40
        y = top + SIDE * (1 - (i + 1) / 40)
        fill = ramp(2 * share - 1 if signed else share, signed)
        drawn.append(
            element("rect", x=left + SIDE + 14, y=y, width=10, height=SIDE / 40 + 0.5, fill=fill)
        )
    for value, y in ((most, top + 8), (low, top + SIDE)):
        drawn.append(element("text", number(value, 2), x=left + SIDE + 28, y=y, font_size=9))
    return figure(title, drawn, height=top + SIDE + 34)


def disk_chart(
    title: str,
    points: Sequence[tuple[float, float]],
    labels: Sequence[int] | None,
    names: Sequence[str],
    note: str,
) -> Markup:
    """Draw points in the unit disk, in the colours of their classes.

    Args:
        title: Above it.
        points: Inside the unit disk.
        labels: The class of each, or None for points of one kind.
        names: Of the classes.
        note: A sentence below.
    """
    radius, middle, top = 130.0, 136.0, 134.0
    drawn = [element("circle", cx=middle, cy=top, r=radius, fill="#fbfcfe", stroke=GREY)]
    size = 2.6 if len(points) < 400 else 1.4
    for i, (x, y) in enumerate(points):
        kind = 0 if labels is None else labels[i]
        at = {"cx": middle + radius * x, "cy": top - radius * y}
        drawn.append(_marker(kind, at["cx"], at["cy"], size))
    for i, name in enumerate(names[:20] if labels is not None else ()):
        y = 16.0 + 12.5 * i
        drawn += [_marker(i, 282.0, y, 4.0), element("text", name[:14], x=292, y=y + 4)]
    return figure(title, drawn, note, height=270)


def _marker(kind: int, x: float, y: float, size: float) -> Markup:
    """A dot in the first round of colours, a square and a diamond in the next."""
    colour, shape = series_colour(kind), kind // 7 % 3
    if shape == 0:
        return element("circle", cx=x, cy=y, r=size, fill=colour, opacity=0.8)
    turn = f"rotate(45 {x:.1f} {y:.1f})" if shape == 2 else None
    return element(
        "rect", x=x - size, y=y - size, width=2 * size, height=2 * size, fill=colour, opacity=0.8,
        transform=turn,
    )  # fmt: skip
