"""Scales, fronts, labels and colours of charts."""

import itertools

import pytest
import torch
from archzoo.train.report.charts.axis_scale import scale_of
from archzoo.train.report.charts.chart_frame import spread
from archzoo.train.report.charts.line_chart import Point, Series, line_chart
from archzoo.train.report.charts.palette import COLOURS, contrast, ramp, readable
from archzoo.train.report.charts.trade_off import Outcome, pareto_front, trade_off_chart


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[0.1, 3.0, 200.0], [5.0], [5.0, 5.0], [1e-9, 2e-9], [], [1e9]])
def test_a_scale_keeps_the_order_and_its_ticks_lie_inside(values, log):
    scale = scale_of(values, 0.0, 100.0, log=log)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places) and all(0 <= place <= 100 for place in places)
    assert list(scale.ticks) == sorted(scale.ticks)
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


def test_what_is_not_finite_takes_no_part_in_a_scale():
    nan, inf = float("nan"), float("inf")
    assert scale_of([1.0, 2.0, nan, inf], 0, 1) == scale_of([1.0, 2.0], 0, 1)


@pytest.mark.parametrize("less", [False, True])
def test_the_front_is_what_nothing_beats_in_both(less):
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(8, (40, 2), generator=generator).tolist()
    all_ = [Outcome(str(i), c, r, 0.0, i) for i, (c, r) in enumerate(pairs)]
    sign = -1 if less else 1

    def beaten(one):
        return any(
            other.cost <= one.cost
            and sign * other.result >= sign * one.result
            and (other.cost, other.result) != (one.cost, one.result)
            for other in all_
        )

    front = pareto_front(all_, less)
    assert {one.label for one in front} == {one.label for one in all_ if not beaten(one)}
    assert [one.cost for one in front] == sorted(one.cost for one in front)


@pytest.mark.parametrize("places", [[50.0] * 6, [0.0, 100.0], [99.0, 98.0, 1.0], [10.0] * 40, []])
def test_labels_are_moved_apart_and_stay_in_order_and_inside(places):
    moved = spread(places, 12.0, 0.0, 100.0)
    least = min(12.0, 100.0 / max(1, len(places) - 1))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in moved)
    ordered = sorted(moved)
    assert all(b - a >= least - 1e-9 for a, b in itertools.pairwise(ordered))
    for (a, x), (b, y) in itertools.permutations(zip(places, moved, strict=True), 2):
        assert a >= b or x < y


# Linear RGB as a person without one kind of cone sees it: Viénot, Brettel and Mollon (1999).
BLINDNESS = {
    "none": torch.eye(3),
    "protanopia": torch.tensor(
        [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]
    ),
    "deuteranopia": torch.tensor(
        [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]
    ),
}
LAB = torch.tensor(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / torch.tensor([[0.9505], [1.0], [1.089]])


def lab(colour, seen):
    rgb = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = LAB @ (seen @ linear).clamp_min(0)
    f = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_of_lines_can_be_told_apart_and_seen_on_white(kind):
    seen = [lab(colour, BLINDNESS[kind]) for colour in COLOURS]
    # A difference of 2.3 is just noticeable; ten of it holds for thin lines, too.
    for a, b in itertools.combinations(seen, 2):
        assert float((a - b).norm()) > 10
    white = lab("#ffffff", BLINDNESS[kind])
    assert all(float((white - one).norm()) > 23 for one in seen)


def test_labels_are_dark_enough_to_be_read_on_white():
    assert contrast("#000000") == pytest.approx(21.0) and contrast("#ffffff") == 1.0
    assert all(contrast(readable(colour)) >= 4.5 for colour in [*COLOURS, "#ffffff", "#fde725"])
    assert readable("#222222") == "#222222"


def test_a_ramp_grows_lighter_or_goes_from_blue_to_red():
    light = [float(lab(ramp(i / 10), BLINDNESS["none"])[0]) for i in range(11)]
    assert light == sorted(light)
    assert [ramp(v, signed=True) for v in (-1, 0, 1)] == ["#2166ac", "#f7f7f7", "#b2182b"]


@pytest.mark.parametrize("points", [[], [Point(1, 1.0)], [Point(1, 1.0, 0.1), Point(2, 2.0)]])
def test_charts_of_few_points_are_drawn(points):
    drawn = line_chart("t", [Series("a", points), Series("b", points)], "x", "y", log=True)
    assert drawn.count("font-weight") == 2 * bool(points)
    outcomes = [Outcome("a", p.x, p.y, p.deviation, 0) for p in points]
    assert "nan" not in drawn + trade_off_chart("t", outcomes, "x", "y")
