"""The fast forms of hyperbolic layers equal their definitions, in outputs and gradients."""

import pytest
import torch
from archzoo.layers._kernels import load_kernels
from archzoo.layers.hyperbolic import (
    BallCurvature,
    MidpointBatchNorm,
    PoincareConv2d,
    PoincareLinear,
    fused_norm,
    fused_planes,
)
from torch import Tensor, nn


# Some hundred roundings of float64 through elementary functions.
TOL = {"rtol": 1e-11, "atol": 1e-12}
KERNEL_TOL = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-12, 1e-13)}
HAS_KERNELS = load_kernels("poincare")
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="no compiler, and then no kernels")
MODULES = [fused_planes, fused_norm]


def draw(*shape: int, seed: int = 0, size: float = 1.0, dtype=torch.float64) -> Tensor:
    """Draw normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def take(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only one path run."""
    for module in MODULES:
        monkeypatch.setattr(module, "records_gradients", lambda: path != "definition")
        monkeypatch.setattr(module, "load_kernels", lambda family: path == "kernel")


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
    """Assert that two paths agree; norms of gradients are the scale of their entries' errors."""
    found = []
    for path in paths:
        take(path, monkeypatch)
        found.append(results(module, t))
    for one, other in zip(*found, strict=True):
        size = other.abs().max().item()
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_of_a_convolution_equals_the_plain_path(place, dtype, monkeypatch):
    rtol, atol = KERNEL_TOL[dtype]
    t = draw(2, 4, 9, 7, size=0.7, dtype=dtype)
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


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 4)])
def test_the_hand_written_gradient_of_a_linear_layer_is_that_of_its_definition(shape, monkeypatch):
    for output in ("tangent", "velocity"):
        layer = PoincareLinear(4, 6, init="normal", curvature=learned(), output=output)
        layer = randomised(layer)
        compare(layer, draw(*shape), monkeypatch)
        if HAS_KERNELS:
            compare(layer, draw(*shape), monkeypatch, ("kernel", "definition"))
