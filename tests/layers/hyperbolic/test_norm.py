"""Midpoint batch normalisation: the literal chain, moments, symmetries, running statistics."""

import copy

import pytest
import torch
from archzoo.layers.hyperbolic import (
    MidpointBatchNorm,
    midpoint_batch_norm,
    poincare,
    tangent_to_velocity,
)
from archzoo.layers.hyperbolic.midpoint import midpoint_statistics
from torch import Tensor
from torch.autograd import gradcheck

from ...close import assert_close_in_scale

C = 0.3


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    """Draw float64 normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


def tensor(value: float) -> Tensor:
    """Return a float64 scalar."""
    return torch.tensor(value, dtype=torch.float64)


def literal(t: Tensor, mean: Tensor, variance: Tensor, c, eps: float) -> Tensor:
    """Tangents (B, D): centre, transport, scale and leave at β, on the ball."""
    x, beta = poincare.expmap0(t, c, margin=0.0), poincare.expmap0(mean, c, margin=0.0)
    middle = poincare.midpoint(x, c)
    spread = poincare.squared_distance(x, middle, c).mean()
    v = poincare.logmap(middle.expand_as(x), x, c, margin=0.0)
    v = poincare.parallel_transport(middle.expand_as(x), beta.expand_as(x), v, c)
    v = (variance / (spread + eps)).sqrt() * v
    return poincare.logmap0(poincare.expmap(beta.expand_as(x), v, c, margin=0.0), c, margin=0.0)


@pytest.mark.parametrize("size", [0.01, 0.5, 1.0])
def test_the_collapsed_norm_is_the_literal_chain(size):
    t = draw(32, 5, size=size).requires_grad_()
    mean = draw(5, seed=1, size=0.4).requires_grad_()
    variance, c = tensor(1.7).requires_grad_(), tensor(C).requires_grad_()
    inputs = (t, mean, variance, c)
    ours = midpoint_batch_norm(*inputs)
    theirs = literal(*inputs, eps=1e-6)
    # Rounding of some thirty elementary functions; at 0.01 both divide by a small spread.
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    cotangent = draw(32, 5, seed=9)
    found, expected = (
        torch.autograd.grad((out * cotangent).sum(), inputs) for out in (ours, theirs)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_images_are_batches_of_pixels():
    t, mean = draw(3, 5, 4, 2), draw(5, seed=1)
    pixels = t.movedim(1, -1).flatten(0, 2)
    rows = midpoint_batch_norm(pixels, mean, tensor(1.7), C)
    images = midpoint_batch_norm(t, mean, tensor(1.7), C)
    torch.testing.assert_close(images.movedim(1, -1).flatten(0, 2), rows, rtol=1e-12, atol=1e-13)
    tokens = midpoint_batch_norm(pixels.view(3, 8, 5), mean, tensor(1.7), C, dim=-1)
    torch.testing.assert_close(tokens.flatten(0, 1), rows, rtol=1e-12, atol=1e-13)


def test_the_mean_squared_distance_to_the_learned_point_is_the_variance():
    t, mean = draw(64, 5), draw(5, seed=1, size=0.5)
    out = midpoint_batch_norm(t, mean, tensor(1.9), C, eps=0.0)
    points, beta = poincare.expmap0(out, C, margin=0.0), poincare.expmap0(mean, C)
    distances = poincare.squared_distance(points, beta, C)
    torch.testing.assert_close(distances.mean(), tensor(1.9), rtol=1e-10, atol=0)


def test_gradients_are_those_of_differences():
    t, mean = draw(6, 3).requires_grad_(), draw(3, seed=1).requires_grad_()
    variance, c = tensor(1.3).requires_grad_(), tensor(C).requires_grad_()
    assert gradcheck(midpoint_batch_norm, (t, mean, variance, c))


def test_rotations_pass_through():
    t, mean = draw(32, 4), draw(4, seed=1)
    turn = torch.linalg.qr(draw(4, 4, seed=2)).Q
    turned = midpoint_batch_norm(t @ turn.mT, mean @ turn.mT, tensor(1.7), C)
    expected = midpoint_batch_norm(t, mean, tensor(1.7), C) @ turn.mT
    torch.testing.assert_close(turned, expected, rtol=1e-11, atol=1e-12)


def test_curvature_is_a_choice_of_the_unit_of_length():
    t, mean = draw(32, 4), draw(4, seed=1)
    unit = midpoint_batch_norm(C**0.5 * t, C**0.5 * mean, tensor(1.7 * C), 1.0, eps=1e-3 * C)
    ours = midpoint_batch_norm(t, mean, tensor(1.7), C, eps=1e-3)
    torch.testing.assert_close(ours, unit / C**0.5, rtol=1e-11, atol=1e-12)


def test_flat_space_has_one_variance_for_all_channels():
    t = draw(32, 4)
    centred = t - t.mean(0)
    # Distances are twice a tangent's norm.
    variance = (2 * centred).square().sum(1).mean()
    expected = (1.7**0.5) * centred / (variance + 1e-6).sqrt()
    found = midpoint_batch_norm(t, torch.zeros(4).double(), tensor(1.7), 1e-10)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_identical_points_go_to_the_learned_point():
    for distance in (0.1, 3.0, 8.0):
        t = torch.zeros(16, 4)
        t[:, 0] = distance
        mean = draw(4, seed=1).float()
        out = midpoint_batch_norm(t, mean, torch.tensor(1.0), 1.0)
        # float32 knows a velocity of e^16 to a part in 1e7; the points are one to that precision.
        torch.testing.assert_close(out, mean.expand(16, -1), rtol=0, atol=2e-2)


@pytest.mark.parametrize("size", [1e-3, 0.03, 0.3, 2.0])
def test_float32_keeps_its_digits_at_every_scale(size):
    t, mean = draw(512, 16, size=size), draw(16, seed=1, size=0.1)
    exact = midpoint_batch_norm(t, mean, tensor(1.0), 0.1)
    rounded = midpoint_batch_norm(t.float(), mean.float(), torch.tensor(1.0), 0.1)
    error = (rounded.double() - exact).norm() / exact.norm()
    assert error < 5e-5


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e8])
def test_values_and_gradients_are_finite_for_any_input(size):
    t = draw(8, 4).float().mul(size).requires_grad_()
    layer = MidpointBatchNorm(4)
    out = layer(t)
    assert out.isfinite().all()
    for gradient in torch.autograd.grad(out.square().sum(), [t, *layer.parameters()]):
        assert gradient.isfinite().all()


def test_the_midpoint_of_the_statistics_is_the_gyromidpoint():
    t = draw(32, 4)
    found = midpoint_statistics(tangent_to_velocity(t, C))
    middle = poincare.midpoint(poincare.expmap0(t, C), C)
    expected = tangent_to_velocity(poincare.logmap0(middle, C), C)
    torch.testing.assert_close(found.mean.flatten(), expected, rtol=1e-10, atol=1e-11)


class TestRunningStatistics:
    """What evaluation normalises by."""

    def test_a_batch_taken_whole_gives_the_same_output_in_evaluation(self):
        layer = MidpointBatchNorm(4, momentum=1.0, curvature=C).double()
        t = draw(16, 4, 3, 3)
        trained = layer(t)
        torch.testing.assert_close(layer.eval()(t), trained, rtol=1e-9, atol=1e-10)

    def test_an_evaluated_point_does_not_depend_on_its_batch(self):
        layer = MidpointBatchNorm(4, curvature=C).double()
        layer(draw(16, 4))
        layer.eval()
        t = draw(16, 4, seed=3)
        torch.testing.assert_close(layer(t)[:2], layer(t[:2]), rtol=1e-12, atol=1e-13)

    def test_they_converge_to_those_of_the_data(self):
        for momentum in (0.1, None):
            layer = MidpointBatchNorm(3, momentum=momentum, curvature=C).double()
            shift = torch.tensor([0.4, 0.0, -0.2], dtype=torch.float64)
            for seed in range(300):
                layer(draw(64, 3, seed=seed, size=0.5) + shift)
            everything = torch.cat([draw(64, 3, seed=s, size=0.5) + shift for s in range(300)])
            whole = midpoint_statistics(tangent_to_velocity(everything, C))
            middle = poincare.logmap0(poincare.midpoint(poincare.expmap0(everything, C), C), C)
            # The mean of 19 recent batches, or of all: standard errors of some percent.
            torch.testing.assert_close(layer.running_mean, middle, rtol=0, atol=0.05)
            assert layer.running_var.item() == pytest.approx(whole.spread.item() / C, rel=0.05)

    def test_without_them_evaluation_uses_the_batch_as_the_reference_does(self):
        layer = MidpointBatchNorm(4, track_running_stats=False).double()
        t = draw(16, 4)
        trained = layer(t)
        torch.testing.assert_close(layer.eval()(t), trained, rtol=0, atol=0)
        assert not dict(layer.named_buffers())

    def test_recomputation_and_copies_carry_them(self):
        layer = MidpointBatchNorm(4).double()
        layer(draw(16, 4))
        other = MidpointBatchNorm(4).double()
        other.load_state_dict(layer.state_dict())
        t = draw(5, 4, seed=1)
        for twin in (other, copy.deepcopy(layer)):
            torch.testing.assert_close(twin.eval()(t), layer.eval()(t), rtol=0, atol=0)


@pytest.mark.compiles
def test_the_norm_compiles_whole():
    layer = MidpointBatchNorm(4)
    t = draw(16, 4, 3, 3).float()
    expected = copy.deepcopy(layer)(t)
    compiled = torch.compile(layer, fullgraph=True)
    assert_close_in_scale(compiled(t), expected, 3e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    layer = MidpointBatchNorm(4)
    t = draw(16, 4).to(dtype)
    out = copy.deepcopy(layer)(t)
    assert out.dtype == dtype
    torch.testing.assert_close(out, layer(t.float()).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0}, "num_features must be at least 1, got 0"),
        ({"input": "ball"}, "input must be 'tangent' or 'velocity'"),
        ({"eps": 0.0}, "eps must be above 0, got 0.0"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\] or be None, got 1.5"),
        ({"curvature": 0.0}, "curvature must be a positive number"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MidpointBatchNorm(**{"num_features": 4, **options})
