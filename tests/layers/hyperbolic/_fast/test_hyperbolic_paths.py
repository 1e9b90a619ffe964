"""The fast forms of hyperbolic layers equal their definitions, in outputs and gradients."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    LorentzBatchNorm,
    LorentzMLR,
    MidpointBatchNorm,
    PoincareConv2d,
    PoincareLinear,
    midpoint_batch_norm,
    mobius_add_tangents,
    poincare_conv2d,
)
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from ..hyperbolic_paths import HAND_WRITTEN, HAS_KERNELS, take

# Some hundred roundings of float64 through elementary functions.
TOL = {"rtol": 1e-11, "atol": 1e-12}
KERNEL_TOL = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-12, 1e-13)}
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="no compiler, and then no kernels")


def draw(*shape: int, seed: int = 0, size: float = 1.0, dtype=torch.float64) -> Tensor:
    """Draw normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def randomised(module: nn.Module, dtype=torch.float64) -> nn.Module:
    """Move every parameter off its initial value."""
    module.to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter += draw(*parameter.shape, seed=seed + 50, size=0.2, dtype=dtype)
    return module


def results(module: nn.Module, t: Tensor) -> list[Tensor]:
    """Return the output and all gradients under a fixed covector."""
    t = t.detach().requires_grad_()
    out = module(t)
    covector = draw(*out.shape, seed=9, dtype=out.dtype)
    inputs = [t, *module.parameters()]
    return [out.detach(), *torch.autograd.grad(out, inputs, covector)]


def compare(module: nn.Module, t: Tensor, monkeypatch, paths=("hand", "definition"), tol=TOL):
    """Assert that two paths agree in the output and in all gradients."""
    found = []
    for path in paths:
        take(path, monkeypatch)
        found.append(results(module, t))
    # Gradients of parameters are sums over points, of terms as large as the largest gradient.
    size = max((x.abs().max().item() for x in found[1] if x.numel()), default=0.0)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(
            one, other, rtol=tol["rtol"], atol=tol["atol"] + tol["rtol"] * size
        )


def learned() -> BallCurvature:
    return BallCurvature(0.3, learned=True)


PLACES = {
    "1x1": {"kernel_size": 1},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "strided and dilated": {"kernel_size": (3, 2), "padding": (2, 1), "dilation": 2, "stride": 3},
    "uneven": {"kernel_size": (2, 3), "padding": (0, 2), "stride": (2, 1)},
    "wide padding": {"kernel_size": 3, "padding": 4},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "narrow groups": {"kernel_size": 1, "groups": 4},
    "tangents": {"kernel_size": 3, "padding": 1, "output": "tangent"},
    "tangents of groups": {"kernel_size": 3, "groups": 2, "output": "tangent"},
}


def conv(place: dict, dtype=torch.float64) -> nn.Module:
    """Make a convolution, whose weights are drawn here: at the rim gradients reach 3e8 in float32,
    and of many draws one is a twentieth above the rounding that is allowed for.
    """
    torch.manual_seed(0)
    options = {"output": "velocity", "init": "normal", "curvature": learned(), **place}
    return randomised(PoincareConv2d(4, 8, **options), dtype)


def norm(width: int, dtype=torch.float64, **options) -> nn.Module:
    options = {"input": "velocity", "curvature": learned(), **options}
    return randomised(MidpointBatchNorm(width, **options), dtype)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [0.02, 0.7, 40.0])
def test_the_hand_written_gradient_of_a_convolution_is_that_of_its_definition(
    place, size, monkeypatch
):
    compare(conv(PLACES[place]), draw(2, 4, 9, 7, size=size), monkeypatch)


@needs_kernels
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [0.02, 0.7, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_of_a_convolution_equals_the_plain_path(place, size, dtype, monkeypatch):
    rtol, atol = KERNEL_TOL[dtype]
    t = draw(2, 4, 9, 7, size=size, dtype=dtype)
    paths, tol = ("kernel", "hand"), {"rtol": rtol, "atol": atol}
    compare(conv(PLACES[place], dtype), t, monkeypatch, paths, tol)


@pytest.mark.parametrize("size", [0.02, 0.7, 4.0])
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4, 2), (2, 5, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_the_hand_written_gradient_of_the_norm_is_that_of_its_definition(
    size, shape, training, monkeypatch
):
    # Where all points are far out, the definition loses digits to cosh(ρ) as well.
    tol = {"rtol": 1e-11 if size < 1 else 1e-9, "atol": 1e-12}
    compare(norm(5).train(training), draw(*shape, size=size), monkeypatch, tol=tol)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4, 2), (2, 5, 3), (2, 5, 7, 9)])
@pytest.mark.parametrize("training", [True, False])
def test_the_kernel_of_the_norm_equals_the_plain_path(shape, dtype, training, monkeypatch):
    rtol, atol = KERNEL_TOL[dtype]
    t = draw(*shape, size=0.7, dtype=dtype)
    paths, tol = ("kernel", "hand"), {"rtol": rtol, "atol": atol}
    compare(norm(5, dtype).train(training), t, monkeypatch, paths, tol)


SPACE_NORMS = list(product(("geodesic", "origin"), ("rms", "mean")))
"""How points move, and what is averaged, in norms of space parts."""


def space_norm(width: int, options: tuple[str, str], dtype=torch.float64) -> nn.Module:
    layer = LorentzBatchNorm(
        width, curvature=learned(), transport=options[0], scale=options[1], momentum=0.3
    )
    return randomised(layer, dtype)


@pytest.mark.parametrize("options", SPACE_NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_gradients_of_the_norm_of_space_parts_are_those_of_its_definition(
    path, training, options, monkeypatch
):
    for shape in ((6, 5), (3, 5, 4, 2), (2, 5, 7, 19)):
        for size in (0.02, 0.7):
            layer = space_norm(5, options).train(training)
            compare(layer, draw(*shape, size=size), monkeypatch, (path, "definition"))
    # Where all points are far out, the definition loses digits to cosh(ρ) as well.
    far = {"rtol": 1e-9, "atol": 1e-12}
    layer = space_norm(5, options).train(training)
    compare(layer, draw(6, 5, size=4.0), monkeypatch, (path, "definition"), far)


@needs_kernels
@pytest.mark.parametrize("options", SPACE_NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_in_float32_the_norm_of_space_parts_is_that_of_float64(training, options, monkeypatch):
    take("kernel", monkeypatch)
    points = draw(2, 5, 7, 19, size=0.7)
    wide, narrow = (
        results(space_norm(5, options, dtype).train(training), points.to(dtype))
        for dtype in (torch.float64, torch.float32)
    )
    for one, other in zip(narrow, wide, strict=True):
        size = other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-5 * size)


@pytest.mark.parametrize("options", SPACE_NORMS)
@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_the_norm_of_space_parts_is_the_same_without_gradients_and_in_any_layout(
    path, options, monkeypatch
):
    points = draw(2, 5, 6, 7)
    take("definition", monkeypatch)
    expected = space_norm(5, options)(points)
    take(path, monkeypatch)
    layer = space_norm(5, options)
    with torch.no_grad():
        for layout in (points, points.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(layer(layout), expected, **TOL)
        torch.testing.assert_close(layer(points.mT), expected.mT, **TOL)
        narrow = layer.to(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            found = narrow(points.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert layer(points.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("scale", ["rms", "mean"])
def test_equal_points_of_the_hyperboloid_go_to_the_mean_with_numbers_for_gradients(
    scale, path, monkeypatch
):
    take(path, monkeypatch)
    layer = space_norm(3, ("origin", scale))
    for x in (torch.zeros(4, 3).double(), draw(1, 3).expand(4, 3)):
        out, *found = results(layer, x)
        # What rounding leaves of their distance is divided by ε = 1e-6.
        torch.testing.assert_close(out, layer.mean.detach().expand(4, 3), rtol=0, atol=1e-8)
        assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_gradients_of_logits_of_space_parts_are_those_of_their_definition(path, bias, monkeypatch):
    for shape in ((7, 4), (2, 3, 4)):
        layer = randomised(LorentzMLR(4, 6, curvature=learned(), bias=bias))
        compare(layer, draw(*shape), monkeypatch, (path, "definition"))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_are_the_same_on_every_path(momentum, dtype, monkeypatch):
    rtol, atol = KERNEL_TOL[dtype]
    found = []
    for path in ("kernel", "hand", "definition"):
        take(path, monkeypatch)
        layer = norm(5, dtype, momentum=momentum)
        for seed in range(3):
            layer(draw(3, 5, 4, 2, seed=seed, dtype=dtype) + 1)
        found.append(dict(layer.named_buffers()))
    for name, value in found[2].items():
        assert name == "num_batches_tracked" or (value - norm(5).get_buffer(name)).abs().max() > 0.1
        for other in found[:2]:
            torch.testing.assert_close(other[name], value, rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 4)])
def test_the_hand_written_gradient_of_a_linear_layer_is_that_of_its_definition(shape, monkeypatch):
    for output in ("tangent", "velocity"):
        layer = PoincareLinear(4, 6, init="normal", curvature=learned(), output=output)
        layer = randomised(layer)
        compare(layer, draw(*shape), monkeypatch)
        if HAS_KERNELS:
            compare(layer, draw(*shape), monkeypatch, ("kernel", "definition"))


class Sum(nn.Module):
    """Möbius addition of the tangents and a shifted copy."""

    def __init__(self) -> None:
        super().__init__()
        self.curvature = learned()
        self.right = nn.Parameter(draw(3, 5, 4, 2, seed=3, size=0.6))

    def forward(self, t: Tensor) -> Tensor:
        return mobius_add_tangents(t, self.right, self.curvature(), dim=1)


@pytest.mark.parametrize("size", [0.02, 0.7, 20.0])
def test_the_hand_written_gradient_of_mobius_addition_is_that_of_its_definition(size, monkeypatch):
    compare(randomised(Sum()), draw(3, 5, 4, 2, size=size), monkeypatch)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_of_mobius_addition_equals_the_plain_path(dtype, monkeypatch):
    rtol, atol = KERNEL_TOL[dtype]
    t = draw(3, 5, 4, 2, size=0.7, dtype=dtype)
    paths, tol = ("kernel", "hand"), {"rtol": rtol, "atol": atol}
    compare(randomised(Sum(), dtype), t, monkeypatch, paths, tol)


LAYOUTS = {
    "one pixel": lambda t: t[..., :1, :1],
    "one image of one pixel": lambda t: t[:1, :, :1, :1],
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "every other pixel": lambda t: t[..., ::2],
    "transposed": lambda t: t.mT,
    "many lanes": lambda t: t.repeat(1, 1, 5, 7),
    "no image": lambda t: t[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_any_size_and_layout_gives_what_the_definition_gives(layout, channels, path, monkeypatch):
    ball = learned()
    build = {"init": "normal", "padding": 1, "curvature": ball}
    layers = [
        PoincareConv2d(channels, 3, 3, output="velocity", **build),
        MidpointBatchNorm(3, input="velocity", curvature=ball, track_running_stats=False),
        PoincareConv2d(3, channels, 1, **{**build, "padding": 0}),
    ]
    t = LAYOUTS[layout](draw(2, channels, 6, 5))
    if t[:, 0].numel() < 2:  # which has no spread to normalise by
        layers.pop(1)
    compare(randomised(nn.Sequential(*layers)), t, monkeypatch, (path, "definition"))


@pytest.mark.long
@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_hand_written_gradients_are_those_of_differences_and_can_be_differentiated(
    path, monkeypatch
):
    take(path, monkeypatch)
    c = torch.tensor(0.3, dtype=torch.float64)
    t, z, r = draw(1, 2, 3, 2), draw(3, 2, 2, 2, seed=1, size=0.5), draw(3, seed=2)
    mean, variance = draw(2, seed=3), torch.tensor(1.3, dtype=torch.float64)
    cases = [
        (lambda *a: poincare_conv2d(*a, padding=1), (t, z, r, c)),
        (lambda *a: midpoint_batch_norm(*a, input="velocity"), (t, mean, variance, c)),
        (lambda a, b, c: mobius_add_tangents(a, b, c, dim=1), (t, t.flip(2), c)),
    ]
    for function, inputs in cases:
        inputs = [x.clone().requires_grad_() for x in inputs]
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_saved_memory_is_the_input_two_outputs_and_numbers_per_pixel(path, monkeypatch):
    take(path, monkeypatch)
    layer, following = conv(PLACES["padded"], torch.float32), norm(8, torch.float32)
    t = draw(4, 4, 16, 16, dtype=torch.float32).requires_grad_()
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = following(layer(t))
    weights = 4 * sum(p.numel() for p in [*layer.parameters(), *following.parameters()])
    numbers = 10 * 4 * 4 * 16 * 16
    assert sum(kept.values()) <= t.nbytes + 2 * out.nbytes + numbers + 4 * weights


@pytest.mark.compiles
def test_other_tools_trace_the_definition():
    layers = nn.Sequential(conv(PLACES["padded"]), norm(8)).eval()
    t = draw(2, 4, 5, 5)
    expected = layers(t)
    torch.testing.assert_close(torch.func.vmap(layers)(t[:, None])[:, 0], expected, **TOL)
    tangent = draw(2, 4, 5, 5, seed=4)
    _, forward = torch.func.jvp(layers, (t,), (tangent,))
    step = 1e-6  # a central difference is exact to its square and to rounding over it
    difference = (layers(t + step * tangent) - layers(t - step * tangent)) / (2 * step)
    torch.testing.assert_close(forward, difference, rtol=1e-6, atol=1e-7)
    exported = torch.export.export(layers, (t,)).module()
    torch.testing.assert_close(exported(t), expected, **TOL)


INTERPRETED = """
import torch
from archzoo.layers import fast_path
from archzoo.layers.hyperbolic._fast import fused_planes

fast_path.load_kernels = lambda family: False
for groups, shape in ((1, (2, 3, 13, 11)), (2, (1, 4, 1, 1)), (1, (5, 4))):
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(shape, generator=generator).requires_grad_()
    size = (6, shape[1] // groups, 1, 1)[: len(shape)]
    weight = torch.randn(size, generator=generator).requires_grad_()
    stretch = (0.2 + torch.rand(6, generator=generator)).requires_grad_()
    shift = torch.randn(6, generator=generator).requires_grad_()
    place = fused_planes.Place((1, 1), (0, 0), (1, 1)) if len(shape) == 4 else None
    found = []
    for takes in (True, False):
        fused_planes._triton_takes = lambda *x, takes=takes: takes
        out = fused_planes.fused_patches(t, weight, stretch, shift, 1.2, place, groups)
        covector = torch.linspace(-1, 1, out.numel()).view_as(out)
        inputs = (t, weight, stretch, shift)
        found.append([out, *torch.autograd.grad(out, inputs, covector)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())
"""


@pytest.mark.processes
def test_the_triton_twin_equals_the_plain_path_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
