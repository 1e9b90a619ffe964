"""Points by their space parts: isometries, distances, centroids, and the maps to the ball."""

import pytest
import torch
from archzoo.layers.hyperbolic import (
    covector,
    drop,
    lift,
    lorentz,
    mobius_add_tangents,
    poincare,
)
from archzoo.layers.hyperbolic import space_points as points
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ..hyperbolic_paths import HAND_WRITTEN, take
from .drawn_points import CURVATURES, LAW, draw, grads, leaf, moved, rotated, spread

ALL_CURVATURES = pytest.mark.parametrize("c", CURVATURES)
C = 0.3


def pair(c: float, radii: float = 1.5) -> tuple[Tensor, Tensor]:
    return spread(7, 5, c=c, radii=radii), spread(7, 5, c=c, seed=1, radii=radii)


class TestProducts:
    """What one more channel is for."""

    @ALL_CURVATURES
    def test_the_product_of_covector_and_lift_is_minkowskis_up_to_what_the_first_adds(self, c):
        x, y = pair(c)
        full = [lorentz.from_space(s, c) for s in (x, y)]
        expected = lorentz.minkowski(*full) + full[0][:, :1] * c**-0.5
        found = (covector(x, c) * lift(y, c)).sum(-1, keepdim=True)
        torch.testing.assert_close(found * c, expected * c, **LAW)

    @ALL_CURVATURES
    def test_a_lift_is_dropped_to_its_point(self, c):
        s = spread(7, 5, c=c)
        torch.testing.assert_close(drop(lift(s, c), c) * c**0.5, s * c**0.5, **LAW)

    def test_flat_space_has_half_the_square_for_a_height(self):
        s = draw(7, 5)
        for c in (1e-12, 1e-30):
            half = s.square().sum(-1, keepdim=True) / 2
            torch.testing.assert_close(lift(s, c), torch.cat([s, half], -1), rtol=1e-11, atol=0)
            one = -torch.ones(7, 1).double()
            torch.testing.assert_close(covector(s, c), torch.cat([s, one], -1), rtol=0, atol=1e-10)

    def test_another_axis_of_channels_is_that_axis(self):
        s = draw(2, 5, 3)
        swapped = s.transpose(1, 2)
        torch.testing.assert_close(lift(s, C, dim=1).transpose(1, 2), lift(swapped, C))
        mean = lift(s, C, dim=1)
        torch.testing.assert_close(drop(mean, C, dim=1).transpose(1, 2), drop(mean.mT, C))


FAST = {
    "lift": ("fused_lift", lambda s, c, g: lift(s, c)),
    "covector": ("fused_covector", lambda s, c, g: covector(s, c, None)),
    "covector with gains": ("fused_covector", lambda s, c, g: covector(s, c, g)),
    "drop": ("fused_drop", lambda s, c, g: drop(lift(s, c).mean(1, keepdim=True), c)),
}


def by_hand(name: str, s: Tensor, c: Tensor, g: Tensor) -> Tensor:
    from archzoo.layers.hyperbolic._fast import fused_space

    function = getattr(fused_space, FAST[name][0])
    if name == "lift":
        return function(s, c)
    if name == "drop":
        return function(lift(s, c).mean(1, keepdim=True), c)
    return function(s, c, g if "gains" in name else None)


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("layout", ["contiguous", "heads of a projection"])
@pytest.mark.parametrize("name", FAST)
def test_what_is_written_by_hand_is_the_definition_in_outputs_and_both_derivatives(
    name, layout, path, monkeypatch
):
    take(path, monkeypatch)
    s = draw(2, 3, 4, 5)
    if layout != "contiguous":
        s = draw(2, 4, 3, 3, 5)[:, :, 1].transpose(1, 2)
    inputs = [s.requires_grad_(), leaf(C), leaf(draw(3, 1, 1, seed=3).exp())]
    ours, theirs = by_hand(name, *inputs), FAST[name][1](*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    used = inputs if "gains" in name else inputs[:2]
    first = [
        torch.autograd.grad((out * draw(*out.shape, seed=9)).sum(), used, create_graph=True)
        for out in (ours, theirs)
    ]
    for found, expected in zip(*first, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    second = [torch.autograd.grad(sum(g.sin().sum() for g in each), used) for each in first]
    for found, expected in zip(*second, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


class TestBoost:
    """Moves of all points that carry the origin to one of them."""

    @ALL_CURVATURES
    def test_it_carries_the_origin_there_and_is_undone_by_the_opposite_one(self, c):
        s, by = pair(c)
        torch.testing.assert_close(points.boost(torch.zeros_like(s), by, c), by, **LAW)
        torch.testing.assert_close(points.boost(s, torch.zeros_like(by), c), s, **LAW)
        back = points.boost(points.boost(s, by, c), -by, c)
        torch.testing.assert_close(back * c**0.5, s * c**0.5, **LAW)

    @ALL_CURVATURES
    def test_no_distance_changes(self, c):
        x, y = pair(c)
        before = points.distance(x, y, c)
        torch.testing.assert_close(points.distance(moved(x, c), moved(y, c), c), before, **LAW)

    @ALL_CURVATURES
    def test_it_is_the_mobius_sum_of_the_ball(self, c):
        s, by = pair(c)
        tangents = mobius_add_tangents(points.to_tangent(by, c), points.to_tangent(s, c), c)
        found = points.boost(s, by, c) * c**0.5
        torch.testing.assert_close(found, points.from_tangent(tangents, c) * c**0.5, **LAW)

    def test_flat_space_adds(self):
        s, by = draw(7, 5), draw(7, 5, seed=1)
        torch.testing.assert_close(points.boost(s, by, 1e-14), s + by, rtol=0, atol=1e-11)

    @ALL_CURVATURES
    def test_a_point_as_seen_from_another_is_moved_by_the_opposite_boost(self, c):
        s, origin = pair(c)
        found = points.relative_to(s, origin, c) * c**0.5
        torch.testing.assert_close(found, points.boost(s, -origin, c) * c**0.5, **LAW)

    def test_points_close_together_keep_their_digits_far_out(self):
        origin = torch.nn.functional.normalize(draw(7, 5), dim=-1).mul(1e3).float()
        s = (origin.double() + draw(7, 5, seed=1)).float()
        exact = points.relative_to(s.double(), origin.double(), 1.0)
        error = (points.relative_to(s, origin, 1.0) - exact).norm() / exact.norm()
        plain = (points.boost(s, -origin, 1.0) - exact).norm() / exact.norm()
        assert error < 1e-6
        assert plain > 1e-4


class TestDistance:
    """Geodesic distance."""

    @ALL_CURVATURES
    def test_it_is_that_of_the_hyperboloid_and_of_the_ball(self, c):
        x, y = pair(c)
        found = points.distance(x, y, c) * c**0.5
        full = lorentz.distance(lorentz.from_space(x, c), lorentz.from_space(y, c), c)
        torch.testing.assert_close(found, full * c**0.5, **LAW)
        ball = poincare.distance(points.to_ball(x, c), points.to_ball(y, c), c)
        torch.testing.assert_close(found, ball * c**0.5, rtol=1e-9, atol=1e-9)

    @ALL_CURVATURES
    def test_it_is_a_metric_that_no_difference_of_vectors_falls_short_of(self, c):
        x, y = pair(c, radii=20.0)
        z = spread(7, 5, c=c, seed=2, radii=20.0)
        there, back = points.distance(x, y, c), points.distance(y, x, c)
        torch.testing.assert_close(there, back, **LAW)
        assert (points.distance(x, z, c) <= there + points.distance(y, z, c) + 1e-9).all()
        assert (there <= (x - y).norm(dim=-1) * (1 + 1e-12)).all()

    def test_flat_space_has_the_length_of_the_difference(self):
        x, y = draw(7, 5), draw(7, 5, seed=1)
        found = points.distance(x, y, 1e-12)
        torch.testing.assert_close(found, (x - y).norm(dim=-1), rtol=1e-10, atol=0)

    def test_the_gradient_is_zero_where_points_meet(self):
        x = leaf(draw(7, 5))
        assert not points.distance(x, x.detach(), C).any()
        (gradient,) = grads(points.distance(x, x.detach().clone(), C), x)
        assert not gradient.any()


class TestCentroid:
    """The centre of mass."""

    @ALL_CURVATURES
    def test_it_moves_with_every_isometry(self, c):
        s, weights = spread(7, 5, c=c), draw(7, 1, seed=2).exp()
        found = moved(points.centroid(s, c, weights), c) * c**0.5
        torch.testing.assert_close(found, points.centroid(moved(s, c), c, weights) * c**0.5, **LAW)

    @ALL_CURVATURES
    def test_it_is_the_drop_of_the_mean_lift_and_the_midpoint_of_the_ball(self, c):
        s, weights = spread(7, 5, c=c), draw(7, 1, seed=2).exp()
        found = points.centroid(s, c, weights) * c**0.5
        share = weights / weights.sum()
        torch.testing.assert_close(found, drop((share * lift(s, c)).sum(0), c) * c**0.5, **LAW)
        ball = poincare.midpoint(points.to_ball(s, c), c, weights)
        torch.testing.assert_close(found, points.from_ball(ball, c) * c**0.5, rtol=1e-9, atol=1e-9)

    @ALL_CURVATURES
    def test_copies_of_a_point_have_their_centre_there(self, c):
        s = spread(1, 5, c=c, radii=10.0)
        found = points.centroid(s.expand(6, -1), c)
        torch.testing.assert_close(found * c**0.5, s[0] * c**0.5, **LAW)

    def test_nothing_near_it_has_a_smaller_sum_of_hyperbolic_cosines(self):
        s, weights = spread(7, 5, c=C), draw(7, seed=2).exp()
        centre = leaf(points.centroid(s, C, weights[:, None]))
        energy = (weights * (C**0.5 * points.distance(s, centre, C)).cosh()).sum()
        (gradient,) = torch.autograd.grad(energy, centre)
        assert gradient.abs().max() < 1e-11

    def test_flat_space_averages(self):
        s, weights = draw(7, 5), draw(7, 1, seed=2).exp()
        expected = (weights * s).sum(0) / weights.sum()
        torch.testing.assert_close(points.centroid(s, 1e-14, weights), expected, rtol=0, atol=1e-11)

    def test_axes_are_averaged_alike_wherever_they_are(self):
        s = draw(2, 3, 5, 4)
        expected = points.centroid(s.permute(0, 1, 3, 2).flatten(0, 1).flatten(0, 1), C)
        found = points.centroid(s, C, over=(0, 1, 3), dim=2)
        torch.testing.assert_close(found, expected, **LAW)


MAPS = {
    "tangents": (points.to_tangent, points.from_tangent),
    "the ball": (points.to_ball, points.from_ball),
}


@ALL_CURVATURES
@pytest.mark.parametrize("name", MAPS)
def test_other_coordinates_are_those_of_the_same_point(name, c):
    there, back = MAPS[name]
    s = spread(7, 5, c=c)
    torch.testing.assert_close(back(there(s, c), c) * c**0.5, s * c**0.5, rtol=1e-10, atol=1e-11)
    # Twice the tangent is the logarithm on the hyperboloid.
    if name == "tangents":
        full = lorentz.logmap0(lorentz.from_space(s, c), c)
        torch.testing.assert_close(2 * there(s, c) * c**0.5, full * c**0.5, **LAW)
    else:
        torch.testing.assert_close(
            there(s, c) * c**0.5, lorentz.to_poincare(lorentz.from_space(s, c), c) * c**0.5, **LAW
        )


FUNCTIONS = {
    "lift": lambda x, y, c: lift(x, c),
    "covector": lambda x, y, c: covector(x, c),
    "drop": lambda x, y, c: drop((lift(x, c) + lift(y, c)) / 2, c),
    "boost": points.boost,
    "relative_to": points.relative_to,
    "squared_distance": points.squared_distance,
    "centroid": lambda x, y, c: points.centroid(torch.stack([x, y]), c),
    "from_tangent": lambda x, y, c: points.from_tangent(x, c),
    "to_tangent": lambda x, y, c: points.to_tangent(x, c),
    "from_ball": lambda x, y, c: points.from_ball(x / 10, c),
    "to_ball": lambda x, y, c: points.to_ball(x, c),
}
HOMOGENEOUS = [name for name in FUNCTIONS if name not in ("lift", "covector", "squared_distance")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_and_their_gradients_are_those_of_differences(name):
    inputs = [leaf(draw(2, 3)), leaf(draw(2, 3, seed=1)), leaf(C)]
    assert gradcheck(FUNCTIONS[name], inputs)
    assert gradgradcheck(FUNCTIONS[name], inputs)


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_another_curvature_is_another_unit_of_length(name):
    x, y = draw(7, 5), draw(7, 5, seed=1)
    c = 4.0
    found = FUNCTIONS[name](x, y, c)
    torch.testing.assert_close(found, FUNCTIONS[name](2 * x, 2 * y, 1.0) / 2, **LAW)


@pytest.mark.parametrize("c", [1e-8, 1.0, 1e4])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1.0, 1e3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_finite_for_any_input(name, size, c):
    x, y = (leaf(draw(7, 5, seed=seed)).detach().float().mul(size) for seed in (0, 1))
    inputs = [x.requires_grad_(), y.requires_grad_(), torch.tensor(c, requires_grad=True)]
    out = FUNCTIONS[name](*inputs)
    assert out.isfinite().all()
    found = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in found)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in ("lift", "covector", "drop")])
def test_half_precision_is_rounded_once_at_the_end(name):
    x, y = draw(7, 5).bfloat16(), draw(7, 5, seed=1).bfloat16()
    found = FUNCTIONS[name](x, y, C)
    expected = FUNCTIONS[name](x.float(), y.float(), C)
    if "ball" not in name:
        assert torch.equal(found, expected.bfloat16())
    assert found.dtype == torch.bfloat16


def test_rotations_commute_with_all_of_it():
    x, y = draw(7, 5), draw(7, 5, seed=1)
    for name in HOMOGENEOUS:
        if name == "drop":
            continue
        function = FUNCTIONS[name]
        found = function(rotated(x), rotated(y), C)
        torch.testing.assert_close(found, rotated(function(x, y, C)), **LAW, msg=name)


def test_a_curvature_that_is_not_positive_is_refused():
    for function in (points.boost, points.relative_to, points.distance):
        with pytest.raises(ValueError, match="curvature must be a positive number"):
            function(draw(2, 3), draw(2, 3), -1.0)
    with pytest.raises(ValueError, match="points of the ball must be of dtype"):
        points.to_ball(torch.ones(2, 3, dtype=torch.long), 1.0)
