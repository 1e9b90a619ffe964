"""The frame of a chart: axes with ticks and names, and labels that do not lie on each other.

A chart is drawn 380 units wide, about a phone's width, so that its text is as large as the page's
there; wider pages set several beside each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .axis_scale import Scale
from .markup import Markup, element, number
from .palette import readable

__all__ = [
    "GREY",
    "HEIGHT",
    "TEXT",
    "WIDTH",
    "Frame",
    "figure",
    "named",
    "spread",
    "text_width",
]

WIDTH, HEIGHT = 380, 252
TEXT = 11  # font size, in units of the drawing
GREY = "#d8dce2"
INK = "#4a5160"
TOP, BOTTOM = 12, 40


@dataclass(frozen=True)
class Frame:
    """Where the axes of a chart lie.

    Attributes:
        left, right: Ends of the horizontal axis.
        top, bottom: Ends of the vertical one.
    """

    left: float = 46.0
    right: float = WIDTH - 10.0
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM

    def axes(self, x: Scale, y: Scale, x_label: str, y_label: str) -> list[Markup]:
        """Grid lines, ticks with their values, and the names of both axes."""
        parts = []
        for tick in y.ticks:
            at = y(tick)
            parts.append(element("line", x1=self.left, x2=self.right, y1=at, y2=at, stroke=GREY))
            place = {"x": self.left - 5, "y": at + 4, "text_anchor": "end"}
            parts.append(_text(_tick(tick, y), **place))
        last = -1e9
        for tick in x.ticks:
            at, written = x(tick), _tick(tick, x)
            parts.append(
                element("line", x1=at, x2=at, y1=self.bottom, y2=self.bottom + 4, stroke=INK)
            )
            half = text_width(written) / 2
            if at - half > last + 4:  # a number that would touch the one before is left out
                parts.append(_text(written, x=at, y=self.bottom + 16, text_anchor="middle"))
                last = at + half
        parts.append(
            element("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, stroke=INK)
        )
        middle = (self.left + self.right) / 2
        parts.append(_text(x_label, x=middle, y=self.bottom + 32, text_anchor="middle"))
        up = (self.top + self.bottom) / 2
        turn = f"translate(11 {up:g}) rotate(-90)"
        parts.append(_text(y_label, transform=turn, text_anchor="middle"))
        return parts


def figure(title: str, drawn: Sequence[Markup], note: str = "", height: float = HEIGHT) -> Markup:
    """A chart with its title above and, where there is one, a sentence below."""
    picture = element(
        "svg",
        element("title", title),
        drawn,
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        xmlns="http://www.w3.org/2000/svg",
        font_size=TEXT,
    )
    below = element("p", note, class_="note") if note else None
    return element("figure", element("figcaption", title), picture, below)


def named(label: str, whole: str, colour: str, x: float, y: float) -> Markup:
    """A label in its line's colour, dark enough to be read, with a white rim over what it crosses.

    Args:
        label: What is written.
        whole: What the label is short for, shown where a pointer rests.
        colour: Of the line.
        x: Where it begins.
        y: Its base line.
    """
    return element(
        "text", element("title", whole), label, x=x, y=y, fill=readable(colour), font_weight=600,
        stroke="#ffffff", stroke_width=3.0, paint_order="stroke", stroke_linejoin="round",
    )  # fmt: skip


def text_width(text: str, bold: bool = False) -> float:
    """About how wide a text is drawn; wide enough for the sans serifs of most systems."""
    return (0.68 if bold else 0.6) * TEXT * len(text)


def spread(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Move labels apart along a line until neighbours have a distance, and keep them within it.

    Args:
        places: Where each would be alone.
        least: Distance of neighbours; less where the line is too short for all.
        low: The line's beginning.
        high: Its end.
    """
    if not places:
        return []
    least = min(least, (high - low) / max(1, len(places) - 1))
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [0.0] * len(places)
    floor = low
    for i in order:
        moved[i] = floor = max(places[i], floor)
        floor += least
    ceiling = high
    for i in reversed(order):
        moved[i] = ceiling = min(moved[i], ceiling)
        ceiling -= least
    return moved


def _tick(value: float, scale: Scale) -> str:
    """A tick's value; large and small ones are short."""
    if abs(value) < 1e-9 * max(abs(scale.low), abs(scale.high)):
        return "0"
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= power:
            return f"{value / (1e3 if letter == 'k' else power):.4g}{letter}"
    return number(value, 3) if abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def _text(text: str, **attributes: str | float) -> Markup:
    return element("text", text, fill=INK, **attributes)
