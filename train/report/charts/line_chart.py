"""Lines over a common axis: the means of groups with deviations as bands and names at the ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from .axis_scale import Scale, scale_of
from .chart_frame import TEXT, WIDTH, Frame, figure, named, spread, text_width
from .markup import Markup, element, shorten
from .palette import dash, series_colour

__all__ = ["Point", "Series", "line_chart"]

LONGEST = 17  # characters of a label beside its line


@dataclass(frozen=True)
class Point:
    """A value at a place, with the standard deviation of what it is the mean of."""

    x: float
    y: float
    deviation: float = 0.0


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        label: Its name, written beside its end.
        points: From left to right.
        index: The number that chooses its colour.
        stairs: Whether the value holds until the next point.
        colour: Another colour than that of the index.
    """

    label: str
    points: Sequence[Point]
    index: int = 0
    stairs: bool = False
    colour: str | None = None

    @property
    def stroke(self) -> str:
        """The colour of the line."""
        return self.colour or series_colour(self.index)


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    zero: bool = False,
    note: str = "",
) -> Markup:
    """Draw lines with their names beside their ends.

    Args:
        title: Above the chart.
        series: Those without points are left out.
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical one.
        log: Whether the vertical axis is logarithmic.
        zero: Whether it begins at 0.
        note: A sentence below the chart.
    """
    series = [one for one in series if one.points]
    labels = [shorten(one.label, LONGEST) for one in series]
    room = max((text_width(label, bold=True) for label in labels), default=0.0) + 18
    frame = Frame(right=WIDTH - room)
    points = [point for one in series for point in one.points]
    x = scale_of([p.x for p in points], frame.left, frame.right)
    tall = [p.y + sign * p.deviation for p in points for sign in (-1, 0, 1)]
    y = scale_of(tall, frame.bottom, frame.top, log=log, zero=zero)
    drawn = frame.axes(x, y, x_label, y_label)
    drawn += [_band(one, x, y) for one in series if any(p.deviation for p in one.points)]
    drawn += [_line(one, x, y) for one in series]
    ends = [y(one.points[-1].y) for one in series]
    for one, label, end, at in zip(
        series, labels, ends, spread(ends, TEXT + 2, frame.top + 2, frame.bottom), strict=True
    ):
        last = x(one.points[-1].x)
        leader = f"M{last + 2:.1f} {end:.1f}L{frame.right + 8:.1f} {at:.1f}"
        drawn.append(element("path", d=leader, stroke=one.stroke, fill="none", stroke_width=0.6))
        drawn.append(named(label, one.label, one.stroke, frame.right + 11, at + 4))
    return figure(title, drawn, note)


def _line(one: Series, x: Scale, y: Scale) -> Markup:
    places = [(x(p.x), y(p.y)) for p in one.points]
    if one.stairs:
        places = [q for a, b in zip(places, places[1:], strict=False) for q in (a, (b[0], a[1]))]
        places.append((x(one.points[-1].x), y(one.points[-1].y)))
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    line = element(
        "path", d=path, fill="none", stroke=one.stroke, stroke_width=1.8,
        stroke_dasharray=dash(one.index), stroke_linejoin="round",
    )  # fmt: skip
    if len(one.points) > 25 or one.stairs:
        return line
    dots = [element("circle", cx=a, cy=b, r=2, fill=one.stroke) for a, b in places]
    return element("g", line, dots)


def _band(one: Series, x: Scale, y: Scale) -> Markup:
    above = [f"{x(p.x):.1f} {y(p.y + p.deviation):.1f}" for p in one.points]
    below = [f"{x(p.x):.1f} {y(p.y - p.deviation):.1f}" for p in reversed(one.points)]
    return element("path", d="M" + "L".join(above + below) + "Z", fill=one.stroke, opacity=0.15)
