"""Heads and norms of space parts, and the norm of tangents."""

import copy
import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.hyperbolic import (
    BallCurvature,
    LorentzBatchNorm,
    LorentzMLR,
    LorentzPrototypes,
    MidpointBatchNorm,
    TangentNorm,
    lorentz,
    lorentz_batch_norm,
    lorentz_mlr,
    poincare_mlr,
    prototype_logits,
    tangent_norm,
)
from archzoo.layers.hyperbolic import space_points as points
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from .drawn_points import CURVATURES, LAW, draw, grads, leaf, moved, rotated, spread

ALL_CURVATURES = pytest.mark.parametrize("c", CURVATURES)
C = 0.3
D, K = 5, 4


class TestHyperplaneLogits:
    """Signed distances to hyperplanes."""

    @ALL_CURVATURES
    def test_they_are_those_of_the_ball(self, c):
        s, z, r = spread(7, D, c=c), draw(K, D, seed=1), draw(K, seed=2, size=0.3) / c**0.5
        expected = poincare_mlr(points.to_tangent(s, c), z, r, c)
        torch.testing.assert_close(lorentz_mlr(s, z, r, c) * c**0.5, expected * c**0.5, **LAW)

    @ALL_CURVATURES
    def test_a_difference_is_stretched_by_no_more_than_twice_the_normal(self, c):
        x, y = (spread(2000, D, c=c, seed=seed, radii=5.0) for seed in (0, 1))
        y[:1000] = x[:1000] + 1e-4 * y[:1000]
        z, r = draw(K, D, seed=1), draw(K, seed=2, size=0.3) / c**0.5
        apart = (lorentz_mlr(x, z, r, c) - lorentz_mlr(y, z, r, c)).abs()
        bound = 2 * z.norm(dim=1) * (x - y).norm(dim=1, keepdim=True)
        assert (apart <= bound * (1 + 1e-6)).all()

    def test_flat_space_has_linear_logits(self):
        s, z, r = draw(7, D), draw(K, D, seed=1), draw(K, seed=2)
        expected = 2 * F.linear(s, z) - 4 * z.norm(dim=1) * r
        torch.testing.assert_close(lorentz_mlr(s, z, r, 1e-24), expected, rtol=0, atol=1e-10)

    def test_gradients_are_those_of_differences(self):
        inputs = [draw(3, 2), draw(2, 2, seed=1), draw(2, seed=2), C]
        assert gradcheck(lorentz_mlr, [leaf(x) for x in inputs])


class TestPrototypes:
    """Distances to points."""

    @ALL_CURVATURES
    def test_their_softmax_is_that_of_half_the_squared_lorentz_distances(self, c):
        s, p = spread(7, D, c=c), spread(K, D, c=c, seed=1)
        full = [lorentz.from_space(x, c) for x in (s, p)]
        squared = -2 / c - 2 * lorentz.minkowski(full[0][:, None], full[1]).squeeze(-1)
        expected = (-squared / 2 * c).log_softmax(-1)
        found = (prototype_logits(s, p, c) * c).log_softmax(-1)
        torch.testing.assert_close(found, expected, **LAW)

    def test_flat_space_has_squared_distances(self):
        s, p = draw(7, D), draw(K, D, seed=1)
        expected = s @ p.mT - p.square().sum(-1) / 2
        torch.testing.assert_close(prototype_logits(s, p, 1e-24), expected, rtol=0, atol=1e-11)

    def test_moving_all_points_keeps_the_probabilities(self):
        s, p = spread(7, D, c=C), spread(K, D, c=C, seed=1)
        before = prototype_logits(s, p, C).log_softmax(-1)
        found = prototype_logits(moved(s, C), moved(p, C), C).log_softmax(-1)
        torch.testing.assert_close(found, before, **LAW)

    def test_the_points_do_not_decay(self):
        assert decay_exclusions(LorentzPrototypes(D, K)) == {"weight"}

    def test_gradients_are_those_of_differences(self):
        inputs = [draw(3, 2), draw(2, 2, seed=1), C]
        assert gradcheck(prototype_logits, [leaf(x) for x in inputs])


OPTIONS = [("geodesic", "rms"), ("origin", "mean"), ("origin", "rms"), ("geodesic", "mean")]


def normed(s: Tensor, c: float | Tensor, transport: str, scale: str, mean=None) -> Tensor:
    mean = torch.zeros(D).double() if mean is None else mean
    return lorentz_batch_norm(
        s, mean, torch.tensor(2.0).double(), c, transport=transport, scale=scale
    )


class TestBatchNorm:
    """The norm of points by their midpoint."""

    @ALL_CURVATURES
    @pytest.mark.parametrize("training", [True, False])
    def test_it_is_the_norm_of_the_balls_tangents(self, training, c):
        ours, theirs = (
            kind(D, curvature=c).double() for kind in (LorentzBatchNorm, MidpointBatchNorm)
        )
        mean = 0.3 * draw(D, seed=1) / c**0.5
        with torch.no_grad():
            ours.mean.copy_(mean)
            theirs.mean.copy_(points.to_tangent(mean, c))
            for layer in (ours, theirs):
                layer.log_variance.fill_(0.5 - math.log(c))
                layer.running_var.fill_(1 / c)
                layer.train(training)
        for seed in range(2):
            s = spread(8, D, c=c, seed=seed)
            expected = points.from_tangent(theirs(points.to_tangent(s, c)), c)
            torch.testing.assert_close(ours(s) * c**0.5, expected * c**0.5, rtol=1e-9, atol=1e-9)
        for name, buffer in ours.named_buffers():
            other = dict(theirs.named_buffers())[name]
            torch.testing.assert_close(buffer, other, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("options", OPTIONS)
    def test_products_of_outputs_do_not_change_when_all_inputs_are_moved(self, options):
        s = spread(8, D, c=C)
        before, after = (normed(x, C, *options) for x in (s, moved(s, C)))
        torch.testing.assert_close(after @ after.mT, before @ before.mT, **LAW)

    @pytest.mark.parametrize("options", OPTIONS)
    def test_the_midpoint_goes_to_the_mean_and_the_spread_is_the_one_asked_for(self, options):
        mean = draw(D, seed=1)
        out = normed(spread(64, D, c=C), C, *options, mean=mean)
        torch.testing.assert_close(
            points.distance(out, mean, C).square().mean()
            if options[1] == "rms"
            else points.distance(out, mean, C).mean(),
            torch.tensor(2.0).double(),
            rtol=1e-5,
            atol=0,
        )

    def test_the_two_ways_to_a_mean_differ_by_a_rotation_around_it(self):
        s, mean = spread(8, D, c=C), draw(D, seed=1)
        seen = [
            points.relative_to(normed(s, C, way, "rms", mean), mean, C)
            for way in ("geodesic", "origin")
        ]
        assert not torch.allclose(*seen)
        torch.testing.assert_close(seen[0] @ seen[0].mT, seen[1] @ seen[1].mT, **LAW)
        at_origin = [normed(s, C, way, "rms") for way in ("geodesic", "origin")]
        torch.testing.assert_close(*at_origin, **LAW)

    def test_it_is_the_published_layer_at_the_origins_transport(self):
        s, beta = spread(8, D, c=1.0), draw(D, seed=1)
        full, mean = lorentz.from_space(s, 1.0), lorentz.from_space(beta, 1.0)
        centre = lorentz.midpoint(full, 1.0)
        origin = lorentz.from_space(torch.zeros(D).double(), 1.0)
        t = lorentz.logmap(centre, full, 1.0)
        t = lorentz.parallel_transport(centre, origin, t, 1.0)
        spread_ = lorentz.distance(full, centre, 1.0).mean()
        t = lorentz.parallel_transport(origin, mean, t * 2.0 / (spread_ + 1e-6), 1.0)
        expected = lorentz.expmap(mean, t, 1.0)[:, 1:]
        found = normed(s, 1.0, "origin", "mean", beta)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("options", OPTIONS)
    def test_images_rows_and_no_rows_are_taken_and_gradients_are_finite(self, options):
        layer = LorentzBatchNorm(
            D, curvature=BallCurvature(C, learned=True), transport=options[0], scale=options[1]
        )
        for size in (0.0, 1e3):
            s = (size * draw(2, D, 3, 4)).float().requires_grad_()
            out = layer(s)
            found = torch.autograd.grad(out.sum(), [s, *layer.parameters()])
            assert out.shape == s.shape and out.isfinite().all()
            assert all(gradient.isfinite().all() for gradient in found)
        before = copy.deepcopy(layer.state_dict())
        assert layer(torch.zeros(0, D)).shape == (0, D)
        for name, value in layer.state_dict().items():
            assert torch.equal(value, before[name]), name

    @pytest.mark.parametrize("options", OPTIONS)
    def test_gradients_are_those_of_differences(self, options):
        inputs = [leaf(draw(3, 2)), leaf(draw(2, seed=1)), leaf(1.3), leaf(C)]

        def function(s: Tensor, mean: Tensor, variance: Tensor, c: Tensor) -> Tensor:
            return lorentz_batch_norm(s, mean, variance, c, transport=options[0], scale=options[1])

        assert gradcheck(function, inputs)

    def test_unknown_options_are_refused(self):
        with pytest.raises(ValueError, match="transport must be 'geodesic' or 'origin'"):
            LorentzBatchNorm(D, transport="straight")
        with pytest.raises(ValueError, match="scale must be 'rms' or 'mean', got 'max'"):
            LorentzBatchNorm(D, scale="max")
        with pytest.raises(ValueError, match="synchronised=True needs scale='rms'"):
            LorentzBatchNorm(D, scale="mean", synchronised=True)


class TestTangentNorm:
    """RMS normalisation that knows the ball."""

    @pytest.mark.parametrize("width", [4, 192])
    @pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 100.0])
    def test_points_lie_at_the_radius_or_nearer_by_the_plain_norm(self, c, width):
        t = draw(7, width, size=3.0)
        far = 2 * c**0.5 * tangent_norm(t, None, c, eps=0.0).norm(dim=-1)
        expected = min(2.0, 2 * (c * width) ** 0.5)
        torch.testing.assert_close(far, torch.full_like(far, expected), **LAW)

    def test_flat_space_has_the_plain_norm_to_rounding(self):
        t = draw(7, D).float()
        layer, plain = TangentNorm(D, curvature=1e-6), nn.RMSNorm(D, eps=1e-6)
        torch.testing.assert_close(layer(t), plain(t), rtol=5e-7, atol=0.0)

    def test_a_learned_curvature_gets_the_gradient_of_the_factor(self):
        t, c = leaf(draw(3, D)), leaf(100.0)
        assert gradcheck(lambda t, c: tangent_norm(t, None, c), [t, c])
        assert grads(tangent_norm(t, None, c), c)[0] != 0

    def test_rotations_commute_with_it(self):
        t = draw(7, D)
        torch.testing.assert_close(
            tangent_norm(rotated(t), None, C), rotated(tangent_norm(t, None, C)), **LAW
        )

    def test_numbers_out_of_range_are_refused(self):
        with pytest.raises(ValueError, match="radius must be above 0, got 0"):
            TangentNorm(D, radius=0)
        with pytest.raises(ValueError, match=r"t has shape \(7, 4\), expected \(…, 5\)"):
            TangentNorm(D)(draw(7, 4).float())


@pytest.mark.parametrize("kind", [LorentzMLR, LorentzPrototypes])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e3])
@pytest.mark.parametrize("c", [1e-8, 1.0, 1e4])
def test_values_and_gradients_are_finite_for_any_input(c, size, kind):
    head = kind(D, K, curvature=BallCurvature(c, learned=True))
    s = draw(7, D).float().mul(size).requires_grad_()
    out = head(s)
    assert out.isfinite().all()
    found = torch.autograd.grad(out.log_softmax(-1).sum(), [s, *head.parameters()])
    assert all(gradient.isfinite().all() for gradient in found)
