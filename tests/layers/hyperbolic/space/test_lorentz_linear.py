"""Linear layers and convolutions of the hyperboloid: the literal layers, isometries and limits."""

import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.hyperbolic import (
    BallCurvature,
    GatedLorentzLinear,
    HyperplaneLinear,
    LorentzConv2d,
    LorentzLinear,
    gated_linear,
    hyperplane_linear,
    lorentz,
    lorentz_conv2d,
    lorentz_linear,
    poincare_linear,
)
from archzoo.layers.hyperbolic import space_points as points
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from ..hyperbolic_paths import HAND_WRITTEN, take
from .drawn_points import CURVATURES, LAW, draw, grads, leaf, rotated, spread

ALL_CURVATURES = pytest.mark.parametrize("c", CURVATURES)
PATHS = ["definition", *HAND_WRITTEN]
C = 0.3
N, M = 5, 4


def parameters(c: float = C) -> list[Tensor]:
    """Draw W, w₀ and b."""
    return [draw(M, N, seed=1, size=0.4), draw(M, seed=2), draw(M, seed=3) / c**0.5]


@pytest.mark.parametrize("path", PATHS)
@ALL_CURVATURES
def test_it_is_the_published_layer_with_a_column_for_the_time(c, path, monkeypatch):
    take(path, monkeypatch)
    s, (w, w0, b) = spread(2, 7, N, c=c), parameters(c)
    full = lorentz.from_space(s, c)
    expected = F.linear(full, torch.cat([w0[:, None], w], 1), b - w0 * c**-0.5)
    found = lorentz_linear(s, w, w0, b, c)
    torch.testing.assert_close(found * c**0.5, expected * c**0.5, **LAW)


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_written_by_hand_is_the_definition_in_outputs_and_both_derivatives(
    bias, monkeypatch
):
    inputs = [leaf(draw(2, 3, N)), *(leaf(x) for x in parameters()), leaf(C)]
    used = inputs if bias else [*inputs[:3], inputs[4]]

    def both(path: str) -> list[Tensor]:
        take(path, monkeypatch)
        s, w, w0, b, c = inputs
        out = lorentz_linear(s, w, w0, b if bias else None, c)
        plain = grads(out, *used)
        out = lorentz_linear(s, w, w0, b if bias else None, c)
        cotangent = draw(*out.shape, seed=9)
        first = torch.autograd.grad((out * cotangent).sum(), used, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), used, allow_unused=True)
        return [out, *plain, *first, *(x for x in second if x is not None)]

    expected = both("definition")
    for path in HAND_WRITTEN:
        for one, other in zip(both(path), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@ALL_CURVATURES
def test_every_rotation_and_boost_is_such_a_layer(c):
    s, by = spread(7, N, c=c), spread(N, c=c, seed=1)
    rows, zero = torch.eye(N).double(), torch.zeros(N).double()
    turned = rotated(rows).mT
    torch.testing.assert_close(lorentz_linear(s, turned, zero, None, c), rotated(s), **LAW)
    # s + by (√c x₀ + c⟨s, by⟩/(1 + X)): time in √c by, with 1/√c of it in the bias.
    time = (1 + c * by.square().sum()).sqrt()
    weight = rows + c / (1 + time) * by[:, None] * by
    found = lorentz_linear(s, weight, c**0.5 * by, by, c)
    expected = points.boost(s, by, c)
    torch.testing.assert_close(found * c**0.5, expected * c**0.5, **LAW)


def test_flat_space_has_the_ordinary_layer():
    s, (w, w0, b) = draw(7, N), parameters()
    found = lorentz_linear(s, w, w0, b, 1e-24)
    torch.testing.assert_close(found, F.linear(s, w, b), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("build", "ordinary", "shape"),
    [
        (lambda: LorentzLinear(N, M), lambda: nn.Linear(N, M), (7, N)),
        (lambda: LorentzConv2d(4, 6, 3), lambda: nn.Conv2d(4, 6, 3), (2, 4, 6, 5)),
    ],
)
def test_a_fresh_layer_is_the_ordinary_one_of_the_same_seed(build, ordinary, shape):
    layers = []
    for make in (build, ordinary):
        torch.manual_seed(0)
        layers.append(make().double())
    s = draw(*shape)
    torch.testing.assert_close(layers[0](s), layers[1](s), rtol=0, atol=1e-14)
    assert not layers[0].time_weight.any()
    assert "time_weight" in decay_exclusions(layers[0])
    missing, unexpected = layers[0].load_state_dict(layers[1].state_dict(), strict=False)
    assert set(missing) == {"time_weight", "curvature._extra_state"} and not unexpected


@ALL_CURVATURES
def test_no_difference_is_stretched_by_more_than_both_norms(c):
    w, w0, b = parameters(c)
    x, y = spread(200, N, c=c, radii=5.0), spread(200, N, c=c, seed=1, radii=5.0)
    apart = lorentz_linear(x, w, w0, b, c) - lorentz_linear(y, w, w0, b, c)
    bound = torch.linalg.matrix_norm(w, 2) + w0.norm()
    assert (apart.norm(dim=1) <= bound * (x - y).norm(dim=1)).all()


class TestHyperplanes:
    """Outputs that are distances to hyperplanes."""

    @ALL_CURVATURES
    def test_it_is_the_published_product_with_normals(self, c):
        s, u, a = spread(7, N, c=c), draw(M, N, seed=1), draw(M, seed=2) / c**0.5
        size = u.norm(dim=1, keepdim=True)
        angle = c**0.5 * a[:, None] / size
        normals = torch.cat([size * angle.sinh(), angle.cosh() * u], 1)
        expected = lorentz.minkowski(lorentz.from_space(s, c)[:, None], normals).squeeze(-1)
        found = hyperplane_linear(s, u, a, c)
        torch.testing.assert_close(found * c**0.5, expected * c**0.5, **LAW)

    @ALL_CURVATURES
    def test_it_is_the_angle_layer_of_the_ball(self, c):
        s, z, r = spread(7, N, c=c), draw(M, N, seed=1), draw(M, seed=2, size=0.3) / c**0.5
        tangents = poincare_linear(points.to_tangent(s, c), z, r, c, scale="angle")
        found = hyperplane_linear(s, 2 * z, 4 * z.norm(dim=1) * r, c)
        torch.testing.assert_close(
            found * c**0.5, points.from_tangent(tangents, c) * c**0.5, rtol=1e-10, atol=1e-10
        )

    def test_flat_space_has_products_with_normals_less_offsets(self):
        s, u, a = draw(7, N), draw(M, N, seed=1), draw(M, seed=2)
        found = hyperplane_linear(s, u, a, 1e-24)
        torch.testing.assert_close(found, F.linear(s, u, -a), rtol=0, atol=1e-10)

    def test_a_row_of_zeros_and_a_far_hyperplane_are_finite_in_float32(self):
        layer = HyperplaneLinear(N, M, curvature=BallCurvature(1.0, learned=True))
        with torch.no_grad():
            layer.weight[0] = 0.0
            layer.offset.fill_(1e4)
        out = layer(draw(7, N).float())
        assert out.isfinite().all()
        assert out[:, 0].abs().max() < 1e-5
        found = torch.autograd.grad(out.sum(), [*layer.parameters()])
        assert all(gradient.isfinite().all() for gradient in found)

    def test_no_offset_is_an_offset_of_zero(self):
        s, u = draw(7, N), draw(M, N, seed=1)
        torch.testing.assert_close(
            hyperplane_linear(s, u, None, C), hyperplane_linear(s, u, torch.zeros(M).double(), C)
        )


class TestGated:
    """The layer of HyboNet."""

    @ALL_CURVATURES
    def test_it_is_the_published_layer(self, c):
        s = spread(7, N, c=c)
        weight, bias = draw(1 + M, 1 + N, seed=1), draw(1 + M, seed=2)
        scale = torch.tensor(0.7).double()
        x = F.linear(lorentz.from_space(s, c), weight, bias)
        time = x[:, :1].sigmoid() * scale.exp() + 1.1
        factor = ((time.square() - 1) / c / x[:, 1:].square().sum(-1, keepdim=True)).sqrt()
        found = gated_linear(s, weight, bias, scale, c)
        torch.testing.assert_close(found * c**0.5, factor * x[:, 1:] * c**0.5, **LAW)

    def test_nothing_lies_nearer_to_the_origin_than_its_margin_or_beyond_its_scale(self):
        layer = GatedLorentzLinear(N, M, curvature=C, scale=5.0)
        s = draw(500, N, size=10.0).float()
        far = C**0.5 * points.distance(layer(s), torch.zeros(M), C)
        assert far.min() >= math.acosh(1.1) - 1e-4
        assert far.max() <= math.acosh(6.1) + 1e-4


CASES = {
    "1x1": ((1, 1), 1, {}),
    "3x3": ((3, 3), 1, {}),
    "padded": ((3, 3), 1, {"padding": 1}),
    "strided": ((3, 3), 1, {"padding": 1, "stride": 2}),
    "dilated": ((3, 3), 1, {"padding": 2, "dilation": 2}),
    "uneven kernel": ((2, 3), 1, {}),
    "groups": ((3, 3), 2, {"padding": 1}),
}


def literal_conv(s: Tensor, w: Tensor, w0: Tensor, b: Tensor, c, groups: int, **place) -> Tensor:
    """Unfold pixels, concatenate them with their times as published, and map the patch."""
    outs = []
    split = zip(s.chunk(groups, 1), w.chunk(groups), w0.chunk(groups), b.chunk(groups), strict=True)
    for part, weight, column, bias in split:
        pixels, count = weight[0, 0].numel(), part.shape[1]
        patches = F.unfold(part, weight.shape[2:], **place).mT
        times = patches.unflatten(-1, (count, pixels)).square().sum(-2) + 1 / c
        time = (times.sum(-1, keepdim=True) - (pixels - 1) / c).sqrt()
        mapped = F.linear(patches, weight.flatten(1), bias - column / c**0.5)
        outs.append(mapped + time * column)
    padded = [n + 2 * place.get("padding", 0) for n in s.shape[2:]]
    reach = [place.get("dilation", 1) * (k - 1) for k in w.shape[2:]]
    shape = [(n - k - 1) // place.get("stride", 1) + 1 for n, k in zip(padded, reach, strict=True)]
    return torch.cat(outs, -1).mT.unflatten(2, shape)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("c", [1e-3, 10.0])
@pytest.mark.parametrize("case", CASES)
def test_the_convolution_is_the_literal_one_in_outputs_and_gradients(case, c, path, monkeypatch):
    take(path, monkeypatch)
    size, groups, place = CASES[case]
    s = leaf(spread(2, 4, 7, 6, c=c, radii=3.0))
    w, w0, b = (
        leaf(draw(*shape, seed=seed))
        for seed, shape in enumerate([(6, 4 // groups, *size), (6,), (6,)], 1)
    )
    curvature = leaf(c)
    inputs = [s, w, w0, b, curvature]
    ours = lorentz_conv2d(s, w, w0, b, curvature, groups=groups, **place)
    theirs = literal_conv(s, w, w0, b, curvature, groups, **place)
    torch.testing.assert_close(ours * c**0.5, theirs * c**0.5, **LAW)
    for found, expected in zip(grads(ours, *inputs), grads(theirs, *inputs), strict=True):
        unit = expected.abs().max()
        torch.testing.assert_close(found / unit, expected / unit, rtol=1e-10, atol=1e-10)


def test_the_convolutions_second_derivatives_are_those_of_the_definition(monkeypatch):
    inputs = [leaf(draw(1, 2, 4, 3)), leaf(draw(3, 2, 3, 2, seed=1)), leaf(draw(3, seed=2))]
    inputs += [leaf(draw(3, seed=3)), leaf(C)]
    found = []
    for path in PATHS:
        take(path, monkeypatch)
        out = lorentz_conv2d(*inputs, padding=1, stride=2)
        along = draw(*out.shape, seed=9)
        first = torch.autograd.grad((out * along).sum(), inputs, create_graph=True)
        used = [inputs[0], inputs[1], inputs[2], inputs[4]]
        found.append(torch.autograd.grad(sum(g.sin().sum() for g in first), used))
    for expected, *others in zip(*found, strict=True):
        for one in others:
            torch.testing.assert_close(one, expected, rtol=1e-11, atol=1e-12)


def test_a_convolution_of_one_pixel_is_the_linear_layer():
    s, (w, w0, b) = draw(7, N), parameters()
    found = lorentz_conv2d(s[:, :, None, None], w[:, :, None, None], w0, b, C)[:, :, 0, 0]
    torch.testing.assert_close(found, lorentz_linear(s, w, w0, b, C), **LAW)


@pytest.mark.parametrize("path", PATHS)
def test_channels_last_images_and_no_images_are_taken(path, monkeypatch):
    take(path, monkeypatch)
    layer = LorentzConv2d(4, 6, 3, padding=1, curvature=C)
    nn.init.normal_(layer.time_weight)
    s = draw(2, 4, 6, 5).float()
    channels_last = s.contiguous(memory_format=torch.channels_last)
    both = [layer(x.requires_grad_()) for x in (channels_last, s)]
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)
    gradients = [grads(out, *layer.parameters()) for out in both]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert layer(s[:0]).shape == (0, 6, 6, 5)


LAYERS = {
    "linear": lambda s, w, v, b, c: lorentz_linear(s, w, v, b, c),
    "hyperplanes": lambda s, w, v, b, c: hyperplane_linear(s, w, v, c),
    "conv": lambda s, w, v, b, c: lorentz_conv2d(
        s.view(1, 3, 2, 1), w.view(2, 3, 1, 1), v, b, c, padding=1
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_and_their_gradients_are_those_of_differences(name):
    inputs = [leaf(draw(2, 3)), leaf(draw(2, 3, seed=1)), leaf(draw(2, seed=2))]
    inputs += [leaf(draw(2, seed=3)), leaf(C)]
    assert gradcheck(LAYERS[name], inputs)
    assert gradgradcheck(LAYERS[name], inputs)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e3])
@pytest.mark.parametrize("c", [1e-8, 1.0, 1e4])
def test_values_and_gradients_are_finite_for_any_input(c, size, path, monkeypatch):
    take(path, monkeypatch)
    for kind in (LorentzLinear, HyperplaneLinear, GatedLorentzLinear):
        layer = kind(N, M, curvature=BallCurvature(c, learned=True))
        s = draw(7, N).float().mul(size).requires_grad_()
        out = layer(s)
        assert out.isfinite().all(), kind
        found = torch.autograd.grad(out.sum(), [s, *layer.parameters()])
        assert all(gradient.isfinite().all() for gradient in found), kind


def test_another_curvature_is_another_unit_of_length():
    s, (w, w0, b) = draw(7, N), parameters()
    found = lorentz_linear(s, w, w0, b, 4.0)
    torch.testing.assert_close(found, lorentz_linear(2 * s, w, w0, 2 * b, 1.0) / 2, **LAW)


def test_autocast_multiplies_in_half_precision_and_keeps_the_time_in_float32():
    layer = LorentzLinear(N, M, curvature=C)
    nn.init.normal_(layer.time_weight)
    s = draw(7, N).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(s)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(s), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("path", PATHS)
def test_no_points_give_no_points(path, monkeypatch):
    take(path, monkeypatch)
    layer = LorentzLinear(N, M)
    s = torch.zeros(0, 3, N, requires_grad=True)
    out = layer(s)
    assert out.shape == (0, 3, M)
    found = torch.autograd.grad(out.sum(), [s, *layer.parameters()])
    assert not any(gradient.any() for gradient in found)


REFUSED = {
    "size": (lambda: LorentzLinear(0, 4), "in_features must be at least 1, got 0"),
    "input": (lambda: LorentzLinear(N, M)(draw(7, 4).float()), r"s has shape .*\(…, 5\)"),
    "time weight": (
        lambda: lorentz_linear(draw(7, N), draw(M, N), draw(3), None, C),
        r"time_weight has shape \(3,\), expected \(4\)",
    ),
    "margin": (lambda: GatedLorentzLinear(N, M, margin=1.0), "margin must be above 1"),
    "scale": (lambda: GatedLorentzLinear(N, M, scale=0.0), "scale must be above 0, got 0"),
    "groups": (lambda: LorentzConv2d(4, 6, 3, groups=4), "groups=4 must divide"),
    "small image": (
        lambda: LorentzConv2d(4, 6, 3)(draw(2, 4, 2, 9).float()),
        "too small for kernel",
    ),
    "curvature": (lambda: LorentzLinear(N, M, curvature=0.0), "curvature must be a positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_by_name(case):
    act, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        act()
