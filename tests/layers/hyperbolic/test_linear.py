"""Linear layers and convolutions of the ball: the literal chain, its limits and its symmetries."""

import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.hyperbolic import (
    BallCurvature,
    MidpointBatchNorm,
    PoincareConv2d,
    PoincareLinear,
    lorentz,
    poincare,
    tangent_to_velocity,
)
from archzoo.layers.hyperbolic.conv import poincare_conv2d
from archzoo.layers.hyperbolic.linear import poincare_linear
from archzoo.layers.hyperbolic.maths.hyperplanes import concatenation_gain
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

C = 0.3


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    """Draw float64 normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


def held(x: Tensor, largest: float | None, c: float | Tensor) -> Tensor:
    """Hold ball points (…, D) at τ = largest, the projection of other libraries."""
    if largest is None:
        return x
    norm = x.norm(dim=-1, keepdim=True).clamp_min(1e-15)
    return x * (math.tanh(largest / 2) / c**0.5 / norm).clamp_max(1.0)


def literal_linear(t: Tensor, z: Tensor, r: Tensor, c: float | Tensor, largest=None) -> Tensor:
    """The layer as published: exponential map, distances to hyperplanes, ball, logarithm."""
    x = held(poincare.expmap0(t, c, margin=0.0), largest, c)
    v = poincare.hyperplane_distance(x, z, r, c)
    w = torch.sinh(c**0.5 * v) / c**0.5
    y = w / (1 + (1 + c * w.square().sum(-1, keepdim=True)).sqrt())
    return poincare.logmap0(held(y, largest, c), c, margin=0.0)


def literal_conv(t: Tensor, z: Tensor, r: Tensor, c, groups=1, largest=None, **place) -> Tensor:
    """Unfold tangents, scale them by beta, apply the literal linear layer per patch and group."""
    size = z.shape[2:]
    outs = []
    total = z[0].numel()
    gain = concatenation_gain(t.shape[1], total)
    for part, normals, offsets in zip(
        t.chunk(groups, 1), z.chunk(groups), r.chunk(groups), strict=True
    ):
        patches = gain * F.unfold(part, size, **place).mT
        outs.append(literal_linear(patches, normals.flatten(1), offsets, c, largest))
    out = concatenation_gain(outs[0].shape[-1], len(z)) * torch.cat(outs, -1)
    padded = [n + 2 * place.get("padding", 0) for n in t.shape[2:]]
    reach = [place.get("dilation", 1) * (k - 1) for k in size]
    shape = [(n - k - 1) // place.get("stride", 1) + 1 for n, k in zip(padded, reach, strict=True)]
    return out.mT.unflatten(2, shape)


def grads(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Pull back a fixed random covector."""
    return torch.autograd.grad((out * draw(*out.shape, seed=9)).sum(), inputs)


CASES = {
    "1x1": ((1, 1), 1, {}),
    "3x3": ((3, 3), 1, {}),
    "padded": ((3, 3), 1, {"padding": 1}),
    "strided": ((3, 3), 1, {"padding": 1, "stride": 2}),
    "dilated": ((3, 3), 1, {"padding": 2, "dilation": 2}),
    "uneven kernel": ((2, 3), 1, {}),
    "groups": ((3, 3), 2, {"padding": 1}),
}


@pytest.mark.parametrize("largest", [None, 1.5])
@pytest.mark.parametrize("case", CASES)
def test_the_collapsed_convolution_is_the_literal_chain(case, largest):
    size, groups, place = CASES[case]
    t = draw(2, 4, 7, 6, size=0.7).requires_grad_()
    z = draw(6, 4 // groups, *size, seed=1, size=0.3).requires_grad_()
    r = draw(6, seed=2, size=0.4).requires_grad_()
    c = torch.tensor(C, dtype=torch.float64, requires_grad=True)
    ours = poincare_conv2d(t, z, r, c, groups=groups, largest=largest, **place)
    theirs = literal_conv(t, z, r, c, groups=groups, largest=largest, **place)
    # float64 rounding through some ten elementary functions either way.
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    for found, expected in zip(grads(ours, t, z, r, c), grads(theirs, t, z, r, c), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_a_cap_that_holds_nothing_changes_nothing_and_one_that_does_holds():
    t, z, r = draw(2, 4, 7, 6), draw(6, 4, 3, 3, seed=1, size=0.3), draw(6, seed=2)
    free = poincare_conv2d(t, z, r, C)
    torch.testing.assert_close(poincare_conv2d(t, z, r, C, largest=29.0), free)
    close = poincare_conv2d(t, z, r, C, largest=0.5)
    assert (2 * C**0.5 * close.norm(dim=1)).max().item() == pytest.approx(0.5)
    assert (2 * C**0.5 * free.norm(dim=1)).max() > 1


def test_a_linear_layer_is_a_convolution_of_one_pixel():
    # Small sizes: far out the literal chain loses digits to the boundary of the ball.
    t, z, r = draw(5, 4, size=0.5), draw(6, 4, seed=1, size=0.3), draw(6, seed=2, size=0.4)
    ours = poincare_linear(t, z, r, C)
    torch.testing.assert_close(
        ours, poincare_conv2d(t[:, :, None, None], z[:, :, None, None], r, C)[:, :, 0, 0]
    )
    torch.testing.assert_close(ours, literal_linear(t, z, r, C), rtol=1e-11, atol=1e-12)
    straight = poincare_linear(t, z, None, C)
    torch.testing.assert_close(straight, poincare_linear(t, z, torch.zeros_like(r), C))


def test_gradients_are_those_of_differences():
    t, z, r = draw(1, 2, 4, 4), draw(3, 2, 3, 3, seed=1, size=0.3), draw(3, seed=2)
    c = torch.tensor(C, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (t, z, r, c)]
    assert gradcheck(lambda *a: poincare_conv2d(*a, padding=1), inputs)
    assert gradcheck(lambda *a: poincare_conv2d(*a, scale="angle"), inputs)


def literal_angle(t: Tensor, u: Tensor, a: Tensor, c: float | Tensor) -> Tensor:
    """The layer of arXiv:2601.21529 on the hyperboloid: s_k = ⟨X, V_k⟩, of velocities √c s.

    V_k = (sinh(√c a_k/‖u_k‖) ‖u_k‖, cosh(√c a_k/‖u_k‖) u_k) and ⟨·,·⟩ is Minkowski's; tangents in
    and out are of the ball, half as long as the hyperboloid's.
    """
    point = lorentz.expmap0(2 * t, c)
    length = u.norm(dim=1, keepdim=True)
    angle = c**0.5 * a[:, None] / length
    normals = torch.cat([angle.sinh() * length, angle.cosh() * u], 1)
    space = lorentz.minkowski(point[:, None], normals).squeeze(-1)
    return lorentz.logmap0(lorentz.from_space(space, c), c) / 2


def test_angle_is_the_layer_of_the_paper_in_outputs_and_gradients():
    t = draw(5, 4, size=0.5).requires_grad_()
    z = draw(6, 4, seed=1, size=0.3).requires_grad_()
    r = draw(6, seed=2, size=0.4).requires_grad_()
    c = torch.tensor(C, dtype=torch.float64, requires_grad=True)
    ours = poincare_linear(t, z, r, c, scale="angle")
    # Their offset counts arc length of the hyperboloid, twice the tangent's, times the normal's.
    theirs = literal_angle(t, 2 * z, 2 * r * (2 * z).norm(dim=1), c)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    for found, expected in zip(grads(ours, t, z, r, c), grads(theirs, t, z, r, c), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "build",
    [
        lambda: PoincareLinear(4, 6, init="normal", scale="angle", output="velocity"),
        lambda: PoincareConv2d(4, 6, 3, init="normal", scale="angle", output="velocity"),
    ],
    ids=["linear", "conv"],
)
def test_angle_velocities_are_linear_in_the_weight_and_teach_it(build):
    layer = build().double()
    t = draw(2, 4) if isinstance(layer, PoincareLinear) else draw(2, 4, 5, 5)
    once = layer(t)
    (gradient,) = torch.autograd.grad(once.square().sum(), layer.weight)
    along = (gradient * layer.weight).flatten(1).sum(1)
    # Without offsets ω is linear in z, so that ⟨dL/dz_k, z_k⟩ = 2 L_k.
    expected = 2 * once.square().transpose(0, 1).flatten(1).sum(1)
    torch.testing.assert_close(along, expected, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        layer.weight.mul_(3)
    torch.testing.assert_close(layer(t), 3 * once, rtol=1e-10, atol=1e-12)


def test_angle_and_distance_agree_to_first_order():
    t, z, r = draw(5, 4, size=1e-4), draw(6, 4, seed=1, size=0.3), draw(6, seed=2, size=1e-4)
    distance, angle = (poincare_linear(t, z, r, C, scale=s) for s in ("distance", "angle"))
    torch.testing.assert_close(distance, angle, rtol=1e-6, atol=0)


@pytest.mark.parametrize("outputs", [4, 7])
def test_an_identity_linear_layer_keeps_the_norm_exactly(outputs):
    layer = PoincareLinear(4, outputs, curvature=2.0).double()
    t = draw(16, 4)
    out = layer(t)
    torch.testing.assert_close(out, F.pad(t, (0, outputs - 4)), rtol=1e-14, atol=1e-15)


def test_dirac_convolutions_keep_small_norms_through_twenty_layers():
    t = draw(2, 8, 6, 6, size=0.01)
    out = t
    for _ in range(20):
        out = PoincareConv2d(8, 8, 3, padding=1, init="dirac", curvature=0.1).double()(out)
    # 10 % is the bar of the issue; what is lost is the patch's own curvature, of order ‖t‖².
    torch.testing.assert_close(out.norm(dim=1), t.norm(dim=1), rtol=0.1, atol=0)


def test_identity_convolutions_shrink_by_the_concatenation_gain():
    t = draw(1, 8, 5, 5, size=0.01)
    out = PoincareConv2d(8, 72, 3, padding=1, curvature=0.1).double()(t)
    gain = concatenation_gain(8, 72)
    assert gain == pytest.approx(0.324, abs=5e-4)
    patch = F.unfold(t, 3, padding=1).norm(dim=1).view(1, 5, 5)
    torch.testing.assert_close(out.norm(dim=1), gain * patch, rtol=1e-6, atol=0)


def test_curvature_is_a_choice_of_the_unit_of_length():
    t, z, r = draw(2, 4, 5, 5), draw(3, 4, 3, 3, seed=1, size=0.3), draw(3, seed=2)
    unit = C**-0.5 * poincare_conv2d(C**0.5 * t, z, C**0.5 * r, 1.0)
    torch.testing.assert_close(poincare_conv2d(t, z, r, C), unit, rtol=1e-12, atol=1e-13)


def test_flat_space_has_the_euclidean_layer():
    t, z, r = draw(2, 4, 5, 5), draw(3, 4, 3, 3, seed=1), draw(3, seed=2)
    gain = concatenation_gain(4, 36)
    expected = F.conv2d(t, 2 * gain * z) - (2 * z.flatten(1).norm(dim=1) * r)[:, None, None]
    torch.testing.assert_close(poincare_conv2d(t, z, r, 1e-10), expected, rtol=1e-7, atol=1e-7)


def test_logits_of_layer_and_of_distances_choose_the_same_class():
    t, z, r = draw(64, 8), draw(10, 8, seed=1), draw(10, seed=2, size=0.3)
    distances = poincare.hyperplane_distance(poincare.expmap0(t, C), z, r, C)
    assert torch.equal(poincare_linear(t, z, r, C).argmax(-1), distances.argmax(-1))


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e8])
@pytest.mark.parametrize("scale", ["distance", "angle"])
def test_values_and_gradients_are_finite_for_any_input(size, scale):
    t = draw(2, 4, 5, 5, size=1.0).float().mul(size).requires_grad_()
    layer = PoincareConv2d(4, 4, 3, padding=1, init="normal", scale=scale)
    out = layer(t)
    assert out.isfinite().all()
    for gradient in torch.autograd.grad(out.sum(), [t, *layer.parameters()]):
        assert gradient.isfinite().all()


def test_a_row_of_zeros_gives_zero_and_can_learn():
    layer = PoincareLinear(4, 3)
    torch.nn.init.zeros_(layer.weight)
    t = draw(5, 4).float()
    out = layer(t)
    assert torch.equal(out, torch.zeros_like(out))
    (gradient,) = torch.autograd.grad((out * t[:, :3]).sum(), layer.weight)
    assert gradient.isfinite().all() and gradient.abs().max() > 0.1


def test_a_half_precision_weight_of_float32_points_is_read_as_what_it_is():
    x, weight, offset = torch.randn(4, 8) / 5, torch.randn(6, 8) / 5, torch.randn(6) / 5
    half = poincare_linear(x, weight.bfloat16(), offset, 1.0)
    assert torch.equal(half, poincare_linear(x, weight.bfloat16().float(), offset, 1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    layer = PoincareConv2d(4, 4, 3, padding=1, init="normal")
    t = draw(2, 4, 5, 5).to(dtype)
    out = layer.to(dtype)(t)
    assert out.dtype == dtype
    torch.testing.assert_close(out, layer.float()(t.float()).to(dtype), rtol=0, atol=0)


def test_a_learned_curvature_is_positive_shared_and_free_of_decay():
    shared = BallCurvature(0.1, learned=True)
    layers = torch.nn.Sequential(
        PoincareLinear(4, 4, curvature=shared), PoincareLinear(4, 4, curvature=shared)
    )
    assert len(list(layers.parameters())) == 5
    assert {"0.curvature.log_ratio"} <= decay_exclusions(layers)
    layers(draw(3, 4).float()).square().sum().backward()
    assert shared.log_ratio.grad is not None
    with torch.no_grad():
        shared.log_ratio.fill_(-50.0)
    assert shared() > 0


@pytest.mark.compiles
def test_layers_compile_whole():
    layer = PoincareConv2d(4, 6, 3, padding=1, init="normal", curvature=BallCurvature(0.5))
    t = draw(2, 4, 5, 5).float()
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(t), layer(t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PoincareLinear(0, 4), "in_features must be at least 1, got 0"),
        (lambda: PoincareLinear(4, 4, curvature=-1.0), "curvature must be a positive number"),
        (lambda: PoincareLinear(4, 4, init="zeros"), "init must be 'identity' or 'normal'"),
        (lambda: PoincareLinear(4, 4, largest=50.0), r"largest must lie in \(0, 30\]"),
        (lambda: PoincareConv2d(4, 6, 3, groups=4), "groups=4 must divide"),
        (lambda: PoincareConv2d(4, 6, 3, scale="log"), "scale must be 'distance' or 'angle'"),
        (lambda: PoincareConv2d(4, 6, 3, output="ball"), "output must be 'tangent' or 'velocity'"),
        (lambda: PoincareConv2d(4, 6, 0), "kernel_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("groups", [1, 2])
def test_velocities_out_are_those_of_the_tangents_out(groups):
    t = draw(2, 4, 5, 5)
    build = {"init": "normal", "padding": 1, "groups": groups, "curvature": C}
    layer = PoincareConv2d(4, 6, 3, **build).double()
    tangents = layer(t)
    layer.output = "velocity"
    expected = tangent_to_velocity(tangents, C, dim=1)
    torch.testing.assert_close(layer(t), expected, rtol=1e-12, atol=1e-13)
    flat = PoincareLinear(4, 6, curvature=C, output="velocity").double()
    found = flat(draw(3, 4))
    flat.output = "tangent"
    torch.testing.assert_close(found, tangent_to_velocity(flat(draw(3, 4)), C))


def test_a_norm_takes_the_velocities_of_a_convolution():
    t = draw(2, 4, 5, 5)
    conv = PoincareConv2d(4, 6, 3, init="normal", curvature=C).double()
    norm = MidpointBatchNorm(6, curvature=C).double()
    tangents = norm(conv(t))
    conv.output, norm.input = "velocity", "velocity"
    torch.testing.assert_close(norm(conv(t)), tangents, rtol=1e-10, atol=1e-11)
    with pytest.raises(ValueError, match="output='velocity' needs the range of bfloat16"):
        conv.half()(t.half())


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(1, 8, 1), (3, 8, 1), (8, 16, 2)])
def test_a_dirac_convolution_that_widens_has_no_dead_channel_and_keeps_the_norm(
    inputs, outputs, groups
):
    layer = PoincareConv2d(inputs, outputs, 3, padding=1, init="dirac", groups=groups).double()
    assert layer.weight.flatten(1).norm(dim=1).min() > 0
    assert len(layer.weight.flatten(1).unique(dim=0)) == outputs // groups
    # A constant image, so that a pixel is its neighbour, and small: the layer is then linear.
    t = 1e-4 * draw(2, inputs, 1, 1).expand(-1, -1, 8, 8)
    out = layer(t)[:, :, 2:-2, 2:-2]
    # All copies of one channel have its norm together; channels copied once more weigh more.
    torch.testing.assert_close(
        out.norm(dim=1),
        t.norm(dim=1)[:, 2:-2, 2:-2],
        rtol=0.3 if outputs % inputs else 1e-6,
        atol=0,
    )
