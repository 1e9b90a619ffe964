"""The linear layer of HGCN: a matrix of tangents, and a translation."""

import pytest
import torch
from archzoo.layers.graphs import GraphConvolution, MobiusLinear, mobius_linear, neighbours_of
from archzoo.layers.graphs._fast.fused_translation import fused_translation
from archzoo.layers.graphs.mobius_linear import translated
from archzoo.layers.hyperbolic import mobius_add_tangents
from torch import nn

from .test_adjacency import EDGES, NODES, features

TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64


def numbers(seed=0):
    g = torch.Generator().manual_seed(seed)
    t, w, b = (torch.randn(*shape, generator=g, dtype=torch.float64)
               for shape in ((7, 3), (4, 3), (4,)))  # fmt: skip
    return t, w, b


def test_the_result_is_translated_by_the_bias():
    t, w, b = numbers()
    expected = mobius_add_tangents(t @ w.T, b.expand(7, 4), 0.7)
    torch.testing.assert_close(mobius_linear(t, w, b, 0.7), expected, **TOL)
    folded = mobius_linear(t.view(7, 1, 3), w, b, 0.7)
    torch.testing.assert_close(folded, expected.view(7, 1, 4), **TOL)


def test_flat_space_is_the_limit_with_the_names_of_a_linear_layer():
    flat, layer = nn.Linear(3, 4).double(), MobiusLinear(3, 4, curvature=1e-12).double()
    layer.load_state_dict(flat.state_dict(), strict=False)
    t, *_ = numbers()
    torch.testing.assert_close(layer(t), flat(t), rtol=0.0, atol=1e-10)


def test_fresh_weights_are_those_of_a_linear_layer():
    torch.manual_seed(0)
    flat = nn.Linear(3, 4)
    torch.manual_seed(0)
    layer = MobiusLinear(3, 4)
    assert torch.equal(layer.weight, flat.weight) and torch.equal(layer.bias, flat.bias)


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 1e3])
def test_without_a_bias_the_layer_of_hgcn_is_the_flat_one_whatever_the_curvature(curvature):
    layer = MobiusLinear(3, 4, curvature=curvature).double()
    nn.init.zeros_(layer.bias)
    flat = nn.Linear(3, 4, bias=False).double()
    flat.load_state_dict({"weight": layer.weight.detach()})
    neighbours = neighbours_of(EDGES, NODES, "row", torch.float64)
    mine, other = (GraphConvolution(part, nn.ReLU()) for part in (layer, flat))
    t = 0.1 * curvature**-0.5 * features()
    torch.testing.assert_close(mine(t, neighbours), other(t, neighbours), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("curvature", [1e-6, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("size", [1e-3, 0.3, 2.0])
def test_numbers_a_row_give_the_same_and_the_same_gradients(curvature, size):
    g = torch.Generator().manual_seed(0)
    scale = size * curvature**-0.5
    a = scale * torch.randn(7, 5, generator=g, dtype=torch.float64)
    b = 0.5 * scale * torch.randn(5, generator=g, dtype=torch.float64)
    a[0], a[1] = 0.0, -b
    upstream = torch.randn(7, 5, generator=g, dtype=torch.float64)
    found = []
    for function in (fused_translation, translated):
        given = [
            x.clone().requires_grad_() for x in (a, b, torch.tensor(curvature, dtype=torch.float64))
        ]
        out = function(*given)
        (out * upstream).sum().backward()
        found.append((out, *(each.grad for each in given)))
    for mine, other in zip(*found, strict=True):
        # Of points that lie up to ten radii out products have e^10 times the rounding.
        torch.testing.assert_close(
            mine, other, rtol=0.0, atol=1e-9 * float(other.detach().abs().max())
        )


def test_its_gradients_can_be_differentiated():
    given = [x[:3].requires_grad_() for x in (numbers()[0][:, :2], numbers()[2][:2])]
    given.append(torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(fused_translation, given)
    assert torch.autograd.gradgradcheck(fused_translation, given)


def test_points_beyond_its_range_are_left_to_the_definition():
    far = torch.full((2, 3), 1e4)
    assert fused_translation(far, torch.ones(3), 1.0) is None
    assert fused_translation(torch.ones(2, 3), far[0], 1.0) is None
    assert fused_translation(far * torch.nan, torch.ones(3), 1.0) is None
    assert mobius_linear(far, torch.eye(3), torch.ones(3), 1.0).isfinite().all()


def test_a_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="out_features must be at least 1, got 0"):
        MobiusLinear(3, 0)
    with pytest.raises(ValueError, match="curvature must be a positive number"):
        MobiusLinear(3, 3, curvature=-1.0)
