"""The orders of a model sum to its features, and their partial sums lead to its logits."""

import copy

import pytest
import torch
from archzoo.layers.residual import taylor_orders
from archzoo.zoo import residual_expansion, to_parallel
from torch import nn

from ..small_models import build, example, trained

EXACT = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
MODELS = [
    ("mlp_nano", {"depth": 5}),
    ("vit_nano", {"depth": 2}),
    ("vit_nano", {"depth": 3, "registers": 1, "qk_norm": True}),
    ("gpt_nano", {"depth": 2}),
    ("gpt_nano", {"depth": 2, "short_window": 3}),
]


def ours(name, **options):
    return trained(build(name, **options)).double().eval()


def inputs(name):
    return example(name, dtype=torch.float64)


@pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
@pytest.mark.parametrize("residual", ["add", "scaled", "layer_scale", "parallel"])
def test_the_orders_of_a_model_sum_to_its_logits(name, options, residual):
    model, x = ours(name, residual=residual, **options), inputs(name)
    found = residual_expansion(model, x)
    branches = len(model.trunk.branches)
    count = -(-branches // 2) if residual == "parallel" else branches
    assert found.logits.shape == (count + 1, *model(x).shape)
    torch.testing.assert_close(found.output, model(x), **EXACT)
    torch.testing.assert_close(found.logits[-1], model(x), **EXACT)
    assert found.stream.errors[-1] < 1e-12
    assert (found.logits[0] - found.output).abs().max() > 1e-6


@pytest.mark.parametrize(("name", "options"), MODELS[:4], ids=str)
def test_the_first_two_orders_are_the_parallel_network(name, options):
    model, x = ours(name, **options), inputs(name)
    wide = to_parallel(model, None)
    torch.testing.assert_close(residual_expansion(model, x, orders=1).logits[1], wide(x), **EXACT)
    whole = residual_expansion(wide, x)
    assert len(whole.logits) == 2
    torch.testing.assert_close(whole.logits[1], wide(x), **EXACT)


def test_a_model_with_rectifiers_is_expanded_exactly():
    model, x = ours("mlp_nano", depth=6), inputs("mlp_nano")
    for branch in model.trunk.branches:
        branch[1] = nn.ReLU()
    torch.testing.assert_close(residual_expansion(model, x).logits[-1], model(x), **EXACT)


def test_a_short_last_group_is_a_branch():
    model = ours("mlp_nano", depth=5, residual={"name": "parallel", "group": 2})
    found = residual_expansion(model, inputs("mlp_nano"))
    assert len(found.logits) == 4
    torch.testing.assert_close(found.logits[-1], model(inputs("mlp_nano")), **EXACT)


@pytest.mark.parametrize(("name", "options"), MODELS[:4], ids=str)
def test_a_model_s_remainder_falls_as_the_next_power_of_the_factor(name, options):
    x, gaps = inputs(name), []
    for factor in (0.02, 0.01):
        residual = {"name": "scaled", "exponent": 0.0, "coefficient": factor}
        model = ours(name, residual=residual, **options)
        found = residual_expansion(model, x, orders=2, mode="taylor")
        gaps.append((found.stream.partial_sums[-1] - found.stream.output).norm())
        torch.testing.assert_close(found.output, model(x), **EXACT)
    # Halving the factor; the next power but one is still a few percent.
    assert torch.log2(gaps[0] / gaps[1]).item() == pytest.approx(3.0, abs=0.2)


def test_torch_s_layer_norm_cannot_be_differentiated_that_often():
    # Why `residual_expansion` writes layer norm out; if this fails, torch has mended it.
    torch.manual_seed(0)
    norm, x = nn.LayerNorm(5, elementwise_affine=False).double(), torch.randn(5).double()
    shift = torch.randn(5).double()

    def plain(h):
        y = h - h.mean()
        return y * (y.square().mean() + norm.eps).rsqrt()

    fused, right = (taylor_orders([lambda h: shift, f], x, orders=3).terms for f in (norm, plain))
    torch.testing.assert_close(fused[:3], right[:3], **EXACT)
    assert (fused[3] - right[3]).norm() > 0.1 * right[3].norm()


def test_the_given_model_is_left_as_it_was():
    model = build("vit_nano", depth=2, drop_rate=0.5, drop_path_rate=0.5).train()
    before = copy.deepcopy(model.state_dict())
    x = example("vit_nano")
    first, second = (residual_expansion(model, x).logits for _ in range(2))
    assert first.dtype == torch.float64 and torch.equal(first, second)
    assert all(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_samples_estimate_the_orders_of_a_deep_model():
    model, x = ours("mlp_nano", depth=8), inputs("mlp_nano")
    g = torch.Generator().manual_seed(0)
    found = residual_expansion(model, x, orders=3, samples=40, generator=g).stream
    exact = residual_expansion(model, x, orders=3).stream
    gaps = (found.terms - exact.terms).flatten(1).norm(dim=1)
    assert (gaps <= 4 * found.standard_errors + 1e-12).all()
    assert found.standard_errors[3] > 0


@pytest.mark.parametrize("residual", ["attnres", "delta", "highway"])
def test_another_residual_is_refused_by_name(residual):
    model = build("mlp_nano", residual=residual)
    kind = type(model.trunk.residual).__name__
    with pytest.raises(ValueError, match=f"{kind} is not additive"):
        residual_expansion(model, example("mlp_nano"))


def test_bad_calls_are_refused_with_a_way_out():
    model, x = build("mlp_nano", depth=20), example("mlp_nano")
    with pytest.raises(ValueError, match="fewer orders, or samples"):
        residual_expansion(model, x)
    with pytest.raises(ValueError, match="ResNet has 2 stages"):
        residual_expansion(build("resnet_nano"), example("resnet_nano"))
    with pytest.raises(ValueError, match="mode must be 'subset' or 'taylor', got 'jet'"):
        residual_expansion(model, x, mode="jet")
    for options in ({}, {"orders": 2, "samples": 5}):
        with pytest.raises(ValueError, match="mode='taylor' needs orders="):
            residual_expansion(model, x, mode="taylor", **options)
