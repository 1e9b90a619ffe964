"""Möbius addition of tangents, as a function and as a residual."""

import pytest
import torch
from archzoo.layers.hyperbolic import BallCurvature, mobius_add_tangents, poincare
from archzoo.layers.residual import Context, Mobius, Site
from torch import Tensor
from torch.autograd import gradcheck

C = 0.3
TIGHT = {"rtol": 1e-11, "atol": 1e-12}  # a handful of float64 roundings


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    """Draw float64 normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [0.01, 0.5, 1.5])
def test_it_is_the_addition_of_points(size):
    a, b = (draw(64, 5, seed=seed, size=size).requires_grad_() for seed in (0, 1))
    c = torch.tensor(C, dtype=torch.float64).requires_grad_()
    points = [poincare.expmap0(t, c, margin=0.0) for t in (a, b)]
    theirs = poincare.logmap0(poincare.mobius_add(*points, c, margin=0.0), c, margin=0.0)
    ours = mobius_add_tangents(a, b, c)
    # The chain on the ball divides by 1 − c‖x‖², which is 1e-3 at the largest size.
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    cotangent = draw(64, 5, seed=2)
    found, expected = (
        torch.autograd.grad((out * cotangent).sum(), (a, b, c)) for out in (ours, theirs)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


def test_it_is_a_gyrogroup():
    a, b = draw(64, 5), draw(64, 5, seed=1)
    zero = torch.zeros_like(a)
    torch.testing.assert_close(mobius_add_tangents(a, zero, C), a, **TIGHT)
    torch.testing.assert_close(mobius_add_tangents(zero, a, C), a, **TIGHT)
    torch.testing.assert_close(mobius_add_tangents(-a, a, C), zero, **TIGHT)
    both = mobius_add_tangents(a, b, C)
    torch.testing.assert_close(mobius_add_tangents(-a, both, C), b, rtol=1e-9, atol=1e-9)
    other = mobius_add_tangents(b, a, C)
    torch.testing.assert_close(both.norm(dim=-1), other.norm(dim=-1), **TIGHT)
    assert (both - other).abs().max() > 0.1


def test_flat_space_adds_vectors():
    a, b = draw(64, 5), draw(64, 5, seed=1)
    torch.testing.assert_close(mobius_add_tangents(a, b, 1e-12), a + b, rtol=0, atol=1e-9)


def test_curvature_is_a_choice_of_the_unit_of_length():
    a, b = draw(64, 5), draw(64, 5, seed=1)
    unit = mobius_add_tangents(C**0.5 * a, C**0.5 * b, 1.0)
    torch.testing.assert_close(mobius_add_tangents(a, b, C), unit / C**0.5, **TIGHT)


def test_gradients_are_those_of_differences():
    a, b = draw(4, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()
    c = torch.tensor(C, dtype=torch.float64).requires_grad_()
    assert gradcheck(mobius_add_tangents, (a, b, c))


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e8])
def test_values_and_gradients_are_finite_for_any_input(size):
    a, b = (draw(8, 4, seed=s).float().mul(size).requires_grad_() for s in (0, 1))
    out = mobius_add_tangents(a, b, 1.0)
    assert out.isfinite().all()
    for gradient in torch.autograd.grad(out.square().sum(), (a, b)):
        assert gradient.isfinite().all()


def test_a_far_point_is_taken_at_the_stated_distance():
    a = torch.tensor([[1e4, 0.0]])
    out = mobius_add_tangents(a, torch.zeros(1, 2), 0.25)
    # Distance 20/√c = 40 is a tangent of 20; float32 at sinh(20).
    torch.testing.assert_close(out, torch.tensor([[20.0, 0.0]]), rtol=1e-5, atol=0)


def test_the_residual_adds_in_the_order_that_is_asked_for():
    x, y = draw(2, 3, 5), draw(2, 3, 5, seed=1)
    sites = [Site("mlp", 0)]
    for order, expected in {
        "branch_first": mobius_add_tangents(y, x, C),
        "stream_first": mobius_add_tangents(x, y, C),
    }.items():
        residual = Mobius(5, sites, curvature=C, order=order)
        state = residual.write(residual.open(x), 0, y, Context(x, x))
        torch.testing.assert_close(residual.close(state), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="order must be 'branch_first' or 'stream_first', got 'x'"):
        Mobius(5, sites, order="x")
    with pytest.raises(ValueError, match="curvature must be a positive number"):
        Mobius(5, sites, curvature=-1.0)


def test_channels_of_images_are_the_axis_of_points():
    x, y = draw(2, 5, 4, 3), draw(2, 5, 4, 3, seed=1)
    ball = BallCurvature(C)
    images = Mobius(5, [Site("conv", 0)], channel_dim=1, curvature=ball)
    out = images.close(images.write(images.open(x), 0, y, Context(x, x)))
    tokens = mobius_add_tangents(y.movedim(1, -1), x.movedim(1, -1), C)
    torch.testing.assert_close(out.movedim(1, -1), tokens, **TIGHT)
