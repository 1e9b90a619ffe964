"""A result against a cost: a point a group, its deviation, and the Pareto front through the best.

A group is on the front where no other is at least as good and as cheap, and better in one of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .axis_scale import Scale, scale_of
from .chart_frame import TEXT, WIDTH, Frame, figure, named, text_width
from .markup import Markup, element, shorten
from .palette import series_colour

__all__ = ["Outcome", "pareto_front", "trade_off_chart"]

LONGEST = 18


@dataclass(frozen=True)
class Outcome:
    """What a group costs and what it reached.

    Attributes:
        label: Its name.
        cost: Less is better.
        result: More is better, unless the chart says otherwise.
        deviation: Standard deviation of the result.
        index: The number that chooses its colour.
    """

    label: str
    cost: float
    result: float
    deviation: float
    index: int


def pareto_front(outcomes: Sequence[Outcome], less_is_better: bool = False) -> list[Outcome]:
    """The groups that no other beats in both, from cheap to dear."""
    sign = -1 if less_is_better else 1
    front: list[Outcome] = []
    for one in sorted(outcomes, key=lambda o: (o.cost, -sign * o.result)):
        same = bool(front) and (one.cost, one.result) == (front[-1].cost, front[-1].result)
        if same or not front or sign * one.result > sign * front[-1].result:
            front.append(one)
    return front


def trade_off_chart(
    title: str,
    outcomes: Sequence[Outcome],
    x_label: str,
    y_label: str,
    *,
    less_is_better: bool = False,
) -> Markup:
    """Draw the outcomes with their names beside them, and the front as stairs."""
    frame = Frame()
    tall = [o.result + sign * o.deviation for o in outcomes for sign in (-1, 0, 1)]
    x = scale_of([o.cost for o in outcomes], frame.left + 12, frame.right - 12, count=4)
    y = scale_of(tall, frame.bottom - 4, frame.top + 8)
    front = pareto_front(outcomes, less_is_better)
    drawn = frame.axes(x, y, x_label, y_label)
    drawn.append(_stairs(front, x, y))
    taken = [(x(o.cost) - 6, y(o.result) - 6, x(o.cost) + 6, y(o.result) + 6) for o in outcomes]
    taken += [
        (x(o.cost) - 2, y(o.result + o.deviation), x(o.cost) + 2, y(o.result - o.deviation))
        for o in outcomes
    ]
    for one in outcomes:
        drawn += _mark(one, one in front, x, y)
    for one in outcomes:
        label = shorten(one.label, LONGEST)
        left, top, box = _free_place(
            x(one.cost), y(one.result), text_width(label, bold=True), taken
        )
        taken.append(box)
        drawn.append(named(label, one.label, series_colour(one.index), left, top + TEXT - 1))
    return figure(title, drawn, "Filled: on the Pareto front.")


def _mark(one: Outcome, on_front: bool, x: Scale, y: Scale) -> list[Markup]:
    colour, at = series_colour(one.index), x(one.cost)
    low, high = y(one.result - one.deviation), y(one.result + one.deviation)
    bar = element("line", x1=at, x2=at, y1=low, y2=high, stroke=colour, stroke_width=1.2)
    dot = element(
        "circle", cx=at, cy=y(one.result), r=4.5, stroke=colour, stroke_width=1.8,
        fill=colour if on_front else "#ffffff",
    )  # fmt: skip
    return [bar, dot]


def _stairs(front: Sequence[Outcome], x: Scale, y: Scale) -> Markup:
    path = ""
    for one in front:
        path += f"H{x(one.cost):.1f}V{y(one.result):.1f}" if path else (
            f"M{x(one.cost):.1f} {y(one.result):.1f}"
        )  # fmt: skip
    return element("path", d=path or None, fill="none", stroke="#8a919e", stroke_dasharray="3 3")


Box = tuple[float, float, float, float]


def _free_place(
    at: float, up: float, width: float, taken: Sequence[Box]
) -> tuple[float, float, Box]:
    """The place around a point where its label lies on nothing, or on as little as possible."""
    tall = TEXT + 1
    tries = []
    for away in (0, tall, 2 * tall, 3 * tall):
        tries += [(at + 8, up - tall / 2 + s * away) for s in (-1, 1)]
        tries += [(at - 8 - width, up - tall / 2 + s * away) for s in (-1, 1)]
    tries += [(at - width / 2, up - tall - 6), (at - width / 2, up + 6)]
    best: tuple[float, float, float, Box] | None = None
    for left, top in tries:
        left, top = min(max(left, 46.0), WIDTH - width), min(max(top, 0.0), 198.0)
        box = (left, top, left + width, top + tall)
        covered = sum(_common(box, other) for other in taken)
        if best is None or covered < best[0]:
            best = (covered, left, top, box)
    assert best is not None
    return best[1:]


def _common(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(tall, 0.0)
