"""Points that lie as rows: every hand-written form equals its definition, in both derivatives."""

from collections.abc import Callable

import pytest
import torch
from archzoo.layers.fast_path import kernels_taken
from archzoo.layers.hyperbolic import (
    HyperbolicAttention,
    LorentzLinear,
    TangentNorm,
    lorentz_conv2d,
    lorentz_linear,
    poincare_linear,
    space_points,
    tangent_norm,
)
from archzoo.layers.hyperbolic.space.attention import attend_lifted, hyperbolic_attention
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..hyperbolic_paths import HAND_WRITTEN, HAS_KERNELS, take

C = torch.tensor(0.3, dtype=torch.float64)
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="no compiler, and then no kernels")


def draw(*shape: int, seed: int = 0, size: float = 0.7) -> Tensor:
    """Draw normals."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def attention(q: Tensor, k: Tensor, v: Tensor, c: Tensor, gain: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):  # the others' gradients cannot be differentiated
        return hyperbolic_attention(q, k, v, c, gain=gain)


def linear(output: str, *, offset: bool = True) -> Callable[..., Tensor]:
    if offset:
        return lambda t, z, r, c: poincare_linear(t, z, r, c, output=output)
    return lambda t, z, c: poincare_linear(t, z, None, c, output=output)


HEADS = [draw(2, 4, 3, 5, seed=i).transpose(1, 2) for i in range(3)]
ROWS, PLANES = draw(2, 7, 6), [draw(5, 6, seed=1), draw(5, seed=2)]
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "attention": (attention, [*HEADS, C, draw(3, 1, 1, seed=3).exp()]),
    "map": (
        lambda s, w, v, b, c: lorentz_linear(s, w, v, b, c),
        [ROWS, PLANES[0], *PLANES[1:], draw(5, seed=3), C],
    ),
    "map without bias": (
        lambda s, w, v, c: lorentz_linear(s, w, v, None, c),
        [ROWS, *PLANES, C],
    ),
    "convolution": (
        lambda s, w, v, b, c: lorentz_conv2d(s, w, v, b, c, stride=(2, 1), padding=(1, 0)),
        [draw(2, 4, 5, 3), draw(5, 4, 3, 2, seed=1), *PLANES[1:], draw(5, seed=3), C],
    ),
    "tangents": (linear("tangent"), [ROWS, *PLANES, C]),
    "velocities": (linear("velocity"), [ROWS, *PLANES, C]),
    "space parts": (linear("space"), [ROWS, *PLANES, C]),
    "tangents without offset": (linear("tangent", offset=False), [ROWS, PLANES[0], C]),
    "tangents of space parts": (space_points.to_tangent, [ROWS, C]),
    "norm": (tangent_norm, [ROWS, draw(6, seed=4) + 2, C]),
    "norm that shortens": (tangent_norm, [ROWS, draw(6, seed=4) + 2, C + 10]),
}


def derivatives(function: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    """Return the output, gradients, gradients that can be differentiated, and theirs."""
    inputs = [x.detach().clone().requires_grad_() for x in given]
    out = function(*inputs)
    along = draw(*out.shape, seed=9)
    plain = torch.autograd.grad(out, inputs, along)
    first = torch.autograd.grad(function(*inputs), inputs, along, create_graph=True)
    curved = sum(g.sin().sum() for g in first)
    second = torch.autograd.grad(curved, inputs, allow_unused=True)  # type: ignore[arg-type]
    return [out, *plain, *first, *(x for x in second if x is not None)]


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("size", [1e-3, 1.0, 4.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_outputs_and_both_derivatives_are_those_of_the_definition(name, size, path, monkeypatch):
    function, (first, *rest) = FUNCTIONS[name]
    found = []
    for way in (path, "definition"):
        take(way, monkeypatch)
        found.append(derivatives(function, [size * first, *rest]))
    # Gradients of parameters are sums over points, of terms as large as the largest of them.
    for one, other in zip(*found, strict=True):
        size = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one / size, other / size, rtol=1e-10, atol=1e-11)


@needs_kernels
@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernels_run_on_float32_and_agree_to_its_rounding(name, monkeypatch):
    function, given = FUNCTIONS[name]
    take("kernel", monkeypatch)
    inputs = [x.float().requires_grad_() for x in given]
    with kernels_taken() as taken:
        out = function(*inputs)
    assert taken == {"poincare"}
    gradients = torch.autograd.grad(out.square().sum(), inputs)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    take("definition", monkeypatch)
    expected = function(*wide)
    torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=2e-6)
    for one, other in zip(
        gradients, torch.autograd.grad(expected.square().sum(), wide), strict=True
    ):
        size = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one.double() / size, other / size, rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize("path", HAND_WRITTEN)
@pytest.mark.parametrize("output", ["tangent", "velocity", "space"])
def test_a_linear_layer_holds_what_lies_further_than_its_range(output, path, monkeypatch):
    t = draw(6, 4, size=1.0) * torch.tensor([0.0, 1e-30, 1e3, 1e8, 1e14, 1e18])[:, None]
    z, r = draw(5, 4, seed=1), draw(5, seed=2)
    z[0] = 0.0
    found = []
    for way in (path, "definition"):
        take(way, monkeypatch)
        inputs = [x.float().requires_grad_() for x in (t, z, r)]
        out = poincare_linear(*inputs, 0.3, output=output)  # type: ignore[arg-type]
        gradients = torch.autograd.grad(out, inputs, torch.ones_like(out))
        found.append([out, gradients[0]])
        assert all(x.isfinite().all() for x in (out, *gradients))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_the_few_points_of_a_decoder_are_mapped_as_many_are(bias, tokens, monkeypatch):
    layer = LorentzLinear(6, 5, curvature=0.3, bias=bias).double()
    torch.nn.init.normal_(layer.time_weight)
    s = draw(tokens, 1, 6)
    take("kernel", monkeypatch)
    with torch.no_grad():
        found = layer(s)
    torch.testing.assert_close(found, layer(s), rtol=1e-13, atol=1e-13)


@needs_kernels
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 3])
def test_the_step_of_a_decoder_attends_as_the_definition_does(heads, window, monkeypatch):
    layer = HyperbolicAttention(4, curvature=0.3).double()
    torch.nn.init.normal_(layer.log_gain)
    query = draw(2, 1, 4, 6).transpose(1, 2)
    key, value = layer.kept(draw(2, heads, 9, 6, seed=1), draw(2, heads, 9, 6, seed=2))
    if window is not None:
        key, value = (x[..., -window:, :] for x in (key, value))
    take("kernel", monkeypatch)
    with torch.no_grad(), kernels_taken() as taken:
        found = layer(query, key, value)
    assert taken == {"poincare"}
    take("definition", monkeypatch)
    torch.testing.assert_close(found, layer(query, key, value), rtol=1e-13, atol=1e-13)


@needs_kernels
def test_a_step_far_below_the_largest_score_counts_for_nothing(monkeypatch):
    layer = HyperbolicAttention(1, curvature=0.3)
    query = 40 * draw(1, 1, 1, 4).float()
    key, value = layer.kept(torch.cat([query, -query], -2), draw(1, 1, 2, 4, seed=2).float())
    take("kernel", monkeypatch)
    with torch.no_grad():
        found = layer(query, key, value)
        take("definition", monkeypatch)
        torch.testing.assert_close(found, layer(query, key, value), rtol=1e-4, atol=1e-5)


@needs_kernels
def test_a_mask_or_gradients_leave_a_step_to_other_code(monkeypatch):
    layer = HyperbolicAttention(2, curvature=0.3).double()
    query, key, value = (draw(1, 2, 1, 5, seed=i) for i in range(3))
    kept = layer.kept(key, value)
    take("kernel", monkeypatch)
    mask = torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        assert not layer(query, *kept, mask=mask).any()
    leaf = query.requires_grad_()
    out = layer(leaf, *kept)
    expected = attend_lifted(
        torch.cat([leaf, -(1 + 0.3 * leaf.square().sum(-1, keepdim=True)).sqrt()], -1), *kept, 0.3
    )
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.grad(out.sum(), leaf)[0].isfinite().all()


@needs_kernels
def test_a_gain_of_zero_leaves_the_norm_to_its_definition(monkeypatch):
    layer = TangentNorm(4).double()
    with torch.no_grad():
        layer.weight[1] = 0.0
    take("kernel", monkeypatch)
    t = draw(3, 4).requires_grad_()
    found = torch.autograd.grad(layer(t).square().sum(), [t, layer.weight])
    take("definition", monkeypatch)
    expected = torch.autograd.grad(layer(t).square().sum(), [t, layer.weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@needs_kernels
def test_what_a_layer_keeps_is_its_input_its_output_and_numbers(monkeypatch):
    take("kernel", monkeypatch)
    t, z, r = draw(40, 16).requires_grad_(), draw(24, 16, seed=1), draw(24, seed=2)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    z.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = poincare_linear(t, z, r, 0.3)
    numbers = 8 * (2 * 40 + 4 * 24)
    assert sum(kept.values()) <= t.nbytes + z.nbytes + out.nbytes + numbers
