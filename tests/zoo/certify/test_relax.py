"""Lines lie on the right side of a function, wherever the interval lies."""

import pytest
import torch
from archzoo.zoo.certify.graph import Elementwise
from archzoo.zoo.certify.local.relax import CURVATURE, Lines, lines, sampled, two_pieces
from archzoo.zoo.certify.recording import graph_of
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU(), "leaky": nn.LeakyReLU(0.2), "reversed": nn.LeakyReLU(-0.5),
    "steep": nn.LeakyReLU(3.0), "prelu": nn.PReLU(3), "hardtanh": nn.Hardtanh(-1.0, 2.0),
    "relu6": nn.ReLU6(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "mish": nn.Mish(), "softplus": nn.Softplus(),
    "softplus_7": nn.Softplus(7.0), "elu": nn.ELU(1.5), "celu": nn.CELU(0.5), "selu": nn.SELU(),
    "hardswish": nn.Hardswish(), "hardsigmoid": nn.Hardsigmoid(), "softshrink": nn.Softshrink(),
    "threshold": nn.Threshold(0.5, 0.5), "log_sigmoid": nn.LogSigmoid(),
}  # fmt: skip
BENT = ("relu", "leaky", "reversed", "steep", "prelu", "hardtanh", "relu6")


def node_of(name: str) -> Elementwise:
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(ACTIVATIONS[name], nn.Linear(3, 2)), torch.randn(2, 3))
    (node,) = (n for n in graph.nodes if isinstance(n, Elementwise))
    return node


def intervals(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Intervals (N, 3): of all widths and places, of no width, at zero, huge."""
    g = torch.Generator().manual_seed(seed)
    middle = torch.randn(400, 3, generator=g, dtype=torch.float64)
    middle = middle * 10 ** (6 * torch.rand(400, 3, generator=g, dtype=torch.float64) - 3)
    half = 10 ** (9 * torch.rand(400, 3, generator=g, dtype=torch.float64) - 6)
    low, high = middle - half, middle + half
    zero = torch.zeros(1, 3, dtype=torch.float64)
    edges = [(middle[:20], middle[:20]), (zero, zero), (zero, zero + 1), (zero - 1, zero),
             (zero - 1e6, zero + 1e6), (zero - 5e-324, zero + 5e-324),
             (zero - 1e9, zero + 1)]  # fmt: skip
    return (
        torch.cat([low, *(a for a, _ in edges)]), torch.cat([high, *(b for _, b in edges)])
    )  # fmt: skip


def outside(found: Lines, low: torch.Tensor, high: torch.Tensor, node: Elementwise) -> float:
    """How far the function leaves the lines, over the size of what is computed."""
    share = torch.linspace(0, 1, 257, dtype=torch.float64)[:, None, None]
    points = torch.maximum(torch.minimum(low + (high - low) * share, high), low)
    inside = [torch.zeros_like(low), *(torch.full_like(low, v) for v in (-3, -1, 0.5, 1, 2, 3, 6))]
    inside = torch.stack([torch.maximum(torch.minimum(p, high), low) for p in inside])
    points = torch.cat([points, inside])
    values = node.function(points)
    below = found.low_slope * points + found.low - values
    above = values - found.high_slope * points - found.high
    # The comparison itself rounds, in proportion to what it adds.
    size = 1e-300 + values.abs() + points.abs() * (found.low_slope.abs() + found.high_slope.abs())
    return float((torch.maximum(below, above) / size).max())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_function_stays_between_its_lines(name, shared):
    node = node_of(name)
    low, high = intervals()
    found = lines(node, low, high, shared=shared)
    assert all(part.isfinite().all() for part in found)
    assert outside(found, low, high, node) <= 4 * 2.0**-52
    if shared:
        assert torch.equal(found.low_slope, found.high_slope)


@pytest.mark.parametrize("name", BENT)
def test_a_function_with_bends_touches_its_lines(name):
    node = node_of(name)
    g = torch.Generator().manual_seed(1)
    ends = 3 * torch.randn(2, 300, 3, generator=g, dtype=torch.float64)
    low, high = ends.amin(0), ends.amax(0)
    found = lines(node, low, high)
    points = torch.cat([
        low + (high - low) * torch.linspace(0, 1, 65, dtype=torch.float64)[:, None, None],
        *(torch.full_like(low, v).clamp(min=low, max=high)[None] for v in (-1.0, 0.0, 2.0, 6.0)),
    ])  # fmt: skip
    values = node.function(points)
    below = (values - found.low_slope * points - found.low).amin(0)
    above = (found.high_slope * points + found.high - values).amin(0)
    torch.testing.assert_close(below, torch.zeros_like(below), rtol=0, atol=1e-12)
    torch.testing.assert_close(above, torch.zeros_like(above), rtol=0, atol=1e-12)


def test_a_piece_without_a_bend_is_kept():
    low = torch.tensor([[1.0, -3.0, 0.0]], dtype=torch.float64)
    high = torch.tensor([[2.0, -1.0, 4.0]], dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    found = two_pieces(low, high, 0 * one, one)
    slopes = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    assert torch.equal(found.low_slope, slopes) and torch.equal(found.high_slope, slopes)
    assert not found.low.any() and not found.high.any()


def test_the_relu_has_the_lines_of_crown():
    low = torch.tensor([[-1.0, -3.0, -2.0]], dtype=torch.float64)
    high = torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    found = two_pieces(low, high, 0 * one, one)
    assert found.low_slope.tolist() == [[1.0, 0.0, 0.0]]
    torch.testing.assert_close(found.high_slope, high / (high - low), rtol=1e-15, atol=0)
    torch.testing.assert_close(found.high, -low * high / (high - low), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "silu", "softplus"])
def test_lines_of_a_smooth_function_close_with_the_square_of_the_width(name):
    node = node_of(name)
    middle = torch.linspace(-2, 2, 60, dtype=torch.float64).view(-1, 3)
    gaps = []
    for half in (1e-2, 1e-3):
        found = lines(node, middle - half, middle + half, shared=True)
        gaps.append(float((found.high - found.low).max()))
    assert gaps[0] < 0.9 * (2e-2) ** 2 / 4
    assert gaps[1] < 0.02 * gaps[0]


def test_a_bound_of_the_slopes_is_enough():
    # A narrow step between two points of the grid.
    def step(t: torch.Tensor) -> torch.Tensor:
        return (100 * (t - 0.53)).clamp(0.0, 1.0)

    low, high = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    least, most = torch.zeros(1, dtype=torch.float64), torch.full((1,), 100.0, dtype=torch.float64)
    points = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None, None]
    for shared in (False, True):
        found = sampled(step, low, high, least, most, shared=shared)
        values = step(points)
        assert (found.low_slope * points + found.low <= values).all()
        assert (found.high_slope * points + found.high >= values).all()


SMOOTH = {
    "aten.tanh": torch.tanh,
    "aten.sigmoid": torch.sigmoid,
    "aten.gelu": torch.nn.functional.gelu,
    "aten.silu": torch.nn.functional.silu,
    "aten.softplus": torch.nn.functional.softplus,
    "aten.log_sigmoid": torch.nn.functional.logsigmoid,
    "aten.log_sigmoid_forward": torch.nn.functional.logsigmoid,
    "aten.atan": torch.atan,
    "aten.erf": torch.erf,
    "aten.asinh": torch.asinh,
    "aten.sin": torch.sin,
    "aten.cos": torch.cos,
}


@pytest.mark.parametrize("kind", CURVATURE)
def test_no_function_bends_more_than_its_curvature(kind):
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64, requires_grad=True)
    functions = [SMOOTH[kind]]
    if kind == "aten.gelu":
        functions.append(lambda t: torch.nn.functional.gelu(t, approximate="tanh"))
    for function in functions:
        (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
        assert 0.98 * CURVATURE[kind] < bend.abs().max() <= CURVATURE[kind]
