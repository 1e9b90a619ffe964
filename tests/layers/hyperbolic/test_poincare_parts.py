"""Pooling, heads, activations and conversions of the ball."""

import copy

import pytest
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    ChangeBall,
    ClipTangent,
    FromBall,
    MidpointPool,
    PoincareConv2d,
    PoincareLinear,
    PoincareMLR,
    PointActivation,
    ToBall,
    check_one_ball,
    midpoint_pool,
    poincare,
    poincare_mlr,
    poincare_relu,
)
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

C = 0.3


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    """Draw float64 normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


class TestPooling:
    """The midpoint of the pixels."""

    def test_it_is_the_gyromidpoint_of_points(self):
        t = draw(2, 5, 3, 4)
        points = poincare.expmap0(t, C, dim=1, margin=0.0)
        middle = poincare.midpoint(points.flatten(2), C, over=2, dim=1)
        expected = poincare.logmap0(middle, C, margin=0.0)
        torch.testing.assert_close(midpoint_pool(t, C), expected, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(MidpointPool(curvature=C)(t), expected, rtol=1e-10, atol=1e-11)

    def test_a_constant_image_is_pooled_to_its_pixel_however_far_out(self):
        for size in (0.1, 1.0, 10.0):
            pixel = size * F.normalize(draw(2, 5))
            image = pixel[:, :, None, None].expand(-1, -1, 3, 4)
            torch.testing.assert_close(midpoint_pool(image, 1.0), pixel, rtol=1e-9, atol=0)

    def test_opposite_points_meet_at_the_origin(self):
        t = draw(2, 5)
        both = torch.stack([t, -t], 2)
        pooled = midpoint_pool(both, C, over=2)
        torch.testing.assert_close(pooled, torch.zeros(2, 5).double(), rtol=0, atol=1e-14)

    def test_flat_space_averages_tangents(self):
        t = draw(2, 5, 3, 4)
        torch.testing.assert_close(midpoint_pool(t, 1e-12), t.mean((2, 3)), rtol=0, atol=1e-10)

    def test_weights_count_by_their_ratios(self):
        t, weights = draw(2, 5, 6), draw(2, 1, 6, seed=1).exp()
        one, two = (midpoint_pool(t, C, w, over=2) for w in (weights, 7 * weights))
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)
        repeated = torch.cat([t, t[:, :, :1]], 2)
        doubled = torch.ones(1, 1, 6).double().index_fill(2, torch.tensor([0]), 2.0)
        torch.testing.assert_close(
            midpoint_pool(t, C, doubled, over=2),
            midpoint_pool(repeated, C, over=2),
            rtol=1e-12,
            atol=1e-13,
        )

    def test_gradients_are_those_of_differences(self):
        c = torch.tensor(C, dtype=torch.float64).requires_grad_()
        assert gradcheck(midpoint_pool, (draw(2, 3, 2, 2).requires_grad_(), c))


class TestLogits:
    """Signed distances to hyperplanes."""

    def test_they_are_the_distances_of_points(self):
        t, z, r = draw(6, 4), draw(3, 4, seed=1), draw(3, seed=2, size=0.3)
        expected = poincare.hyperplane_distance(poincare.expmap0(t, C, margin=0.0), z, r, C)
        torch.testing.assert_close(poincare_mlr(t, z, r, C), expected, rtol=1e-10, atol=1e-11)

    def test_they_choose_the_class_that_the_linear_layer_chooses(self):
        mlr, linear = PoincareMLR(4, 3, curvature=C), PoincareLinear(4, 3, curvature=C)
        linear.load_state_dict(mlr.state_dict())
        t = draw(200, 4).float()
        logits, tangents = mlr(t), linear(t)
        assert torch.equal(logits.argmax(1), tangents.argmax(1))
        assert not torch.allclose(logits, tangents, rtol=0.1)

    def test_flat_space_has_four_times_linear_logits(self):
        # Distances from the origin are twice a tangent's norm, and the normal counts twice too.
        t, z, r = draw(6, 4), draw(3, 4, seed=1), draw(3, seed=2)
        expected = 4 * (F.linear(t, z) - z.norm(dim=1) * r)
        torch.testing.assert_close(poincare_mlr(t, z, r, 1e-12), expected, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("size", [0.0, 1e-20, 1e8])
    def test_values_and_gradients_are_finite_for_any_input(self, size):
        head = PoincareMLR(4, 3)
        t = draw(8, 4).float().mul(size).requires_grad_()
        logits = head(t)
        assert logits.isfinite().all()
        for gradient in torch.autograd.grad(logits.square().sum(), [t, *head.parameters()]):
            assert gradient.isfinite().all()

    def test_gradients_are_those_of_differences(self):
        inputs = [draw(6, 4), draw(3, 4, seed=1), draw(3, seed=2, size=0.3), torch.tensor(C)]
        assert gradcheck(poincare_mlr, [x.double().requires_grad_() for x in inputs])

    def test_sizes_are_refused_by_name(self):
        with pytest.raises(ValueError, match="out_features must be at least 1, got 0"):
            PoincareMLR(4, 0)


class TestActivation:
    """Functions of tangents, for points."""

    def test_relu_of_points_is_relu_of_tangents(self):
        t = draw(6, 4)
        x = poincare.expmap0(t, C)
        expected = poincare.expmap0(t.relu(), C)
        for found in (poincare_relu(x, C), PointActivation(nn.ReLU(), curvature=C)(x)):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    def test_flat_space_has_the_plain_activation(self):
        x = draw(6, 4)
        found = PointActivation(nn.GELU(), curvature=1e-10)(x)
        torch.testing.assert_close(found, F.gelu(x), rtol=1e-8, atol=1e-8)


class TestConversion:
    """In, out, and from ball to ball."""

    def test_the_way_in_is_undone_by_the_way_out(self):
        t = draw(6, 4)
        there = ToBall(curvature=C)(t)
        assert (C * there.square().sum(-1) < 1).all()
        torch.testing.assert_close(FromBall(curvature=C)(there), t, rtol=1e-9, atol=1e-10)

    def test_clipping_shortens_what_is_longer_and_nothing_else(self):
        t = draw(50, 4)
        clipped = ClipTangent(1.5)(t)
        short = t.norm(dim=1) <= 1.5
        assert short.any() and not short.all()
        assert torch.equal(clipped[short], t[short])
        torch.testing.assert_close(
            clipped[~short], 1.5 * F.normalize(t[~short]), rtol=1e-12, atol=0
        )
        with pytest.raises(ValueError, match="radius must be above 0, got 0"):
            ClipTangent(0.0)

    def test_a_change_of_ball_keeps_distances_from_the_origin_or_all_shapes(self):
        t, other = draw(6, 4), draw(6, 4, seed=1)
        assert torch.equal(ChangeBall(1.0, C)(t), t)
        similar = ChangeBall(1.0, C, keep="shape")
        middle = midpoint_pool(torch.stack([t, other], 1), 1.0, over=1, dim=2)
        moved = torch.stack([similar(t), similar(other)], 1)
        torch.testing.assert_close(
            midpoint_pool(moved, C, over=1, dim=2), similar(middle), rtol=1e-10, atol=1e-11
        )
        with pytest.raises(ValueError, match="keep must be 'distance' or 'shape', got 'x'"):
            ChangeBall(1.0, C, keep="x")

    def test_a_network_of_two_balls_is_refused_unless_a_change_connects_them(self):
        one, two = BallCurvature(1.0, learned=True), BallCurvature(1.0, learned=True)
        first, last = (PoincareLinear(4, 4, curvature=ball) for ball in (one, two))
        with pytest.raises(ValueError, match=r"mixes balls: .*'0.curvature' and '1.curvature'"):
            check_one_ball(nn.Sequential(first, last))
        check_one_ball(nn.Sequential(first, ChangeBall(one, two), last))
        check_one_ball(nn.Sequential(first, PoincareLinear(4, 4, curvature=one)))
        check_one_ball(nn.Sequential(*(PoincareLinear(4, 4, curvature=0.5) for _ in range(2))))


class LowRank(nn.Module):
    """A matrix as a product, for `torch.nn.utils.parametrize`."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiply."""
        return (left @ right).view(len(left), *self.rest)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Truncate the singular value decomposition."""
        self.rest = weight.shape[1:]
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        return u[:, : self.rank] * s[: self.rank], v[: self.rank]


class TestWeightStructure:
    """Layers of the ball take any matrix as z, whatever it is made of."""

    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            (PoincareLinear(6, 5, init="normal"), (3, 6)),
            (PoincareMLR(6, 5), (3, 6)),
            (PoincareConv2d(6, 5, 3, padding=1, init="normal"), (3, 6, 4, 4)),
        ],
        ids=["linear", "mlr", "conv"],
    )
    def test_a_factored_weight_is_the_product_of_its_factors(self, layer, shape):
        layer = copy.deepcopy(layer).double()
        dense = copy.deepcopy(layer)
        register_parametrization(layer, "weight", LowRank(2))
        with torch.no_grad():
            dense.weight.copy_(layer.weight)
        assert torch.linalg.matrix_rank(dense.weight.flatten(1)) == 2
        t = draw(*shape)
        torch.testing.assert_close(layer(t), dense(t), rtol=1e-12, atol=1e-13)
        layer(t).square().sum().backward()
        dense(t).square().sum().backward()
        factors = layer.parametrizations.weight
        expected = dense.weight.grad.flatten(1) @ factors.original1.detach().mT
        torch.testing.assert_close(factors.original0.grad, expected, rtol=1e-10, atol=1e-11)

    def test_a_spectrally_normed_weight_is_taken_as_it_is(self):
        layer = spectral_norm(PoincareLinear(6, 5, init="normal").double()).eval()
        plain = PoincareLinear(6, 5).double()
        with torch.no_grad():
            plain.weight.copy_(layer.weight)
            plain.offset.copy_(layer.offset)
        t = draw(3, 6)
        torch.testing.assert_close(layer(t), plain(t), rtol=1e-12, atol=1e-13)
