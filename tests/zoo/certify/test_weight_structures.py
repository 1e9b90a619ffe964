"""A certificate answers for every weight structure, on plain, Lipschitz and hyperbolic layers."""

import math

import pytest
import torch
from archzoo.layers.lowrank import FactoredLinear, Factors
from archzoo.zoo import certify, create_model
from archzoo.zoo.axes.lowrank import merge_lowrank, methods
from torch import nn

BY_CONSTRUCTION = ("ldlt_mlp_nano", "sll_mlp_nano", "sandwich_mlp_nano", "aol_mlp_nano")


@pytest.mark.parametrize("method", methods.names())
def test_the_bound_of_a_factored_network_is_that_of_the_merged_one(method: str) -> None:
    torch.manual_seed(0)
    dense = {"min_kernel": 1} if "min_kernel" in methods[method].options else {}
    model = create_model("mlp_nano", lowrank={"name": method, **dense})
    assert model.lowrank is not None
    found = certify(model, method="product", estimate=False)
    if not model.lowrank.method.is_matrix:
        assert found.lipschitz < math.inf or "activation between" in " ".join(found.reasons)
        return
    merge_lowrank(model)
    # Merging rounds each weight to float32; the certificate multiplies the factors in float64.
    merged = certify(model, method="product", estimate=False)
    assert found.lipschitz == pytest.approx(merged.lipschitz, rel=1e-5)
    assert found.lipschitz < math.inf


@pytest.mark.parametrize("name", BY_CONSTRUCTION)
def test_a_constant_by_construction_holds_with_free_matrices_made_of_factors(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, lipschitz=0.5, lowrank={"name": "low_rank", "rank": 0.25})
    assert model.lowrank is not None and all(":" in target for target in model.lowrank.targets)
    with torch.no_grad():
        for p in model.lowrank.structures():
            p[1].left.mul_(30.0)
    found = certify(model, estimate=False)
    # Effective weights are stored in float32.
    assert found.lipschitz <= 0.5 * (1 + 1e-6)


def test_changing_a_factor_changes_the_cached_weights_of_a_lipschitz_layer() -> None:
    model = create_model("ldlt_mlp_nano", lowrank={"name": "low_rank", "rank": 0.25}).eval()
    x = torch.randn(2, *model.default_cfg["input_size"])
    with torch.no_grad():
        before = model(x)
        assert torch.equal(model(x), before)
        for _, structure in model.lowrank.structures():  # type: ignore[union-attr]
            assert isinstance(structure, Factors)
            structure.left.mul_(0.5)
        assert not torch.equal(model(x), before)


def test_a_gradient_reaches_the_factors_of_a_lipschitz_layer() -> None:
    model = create_model("ldlt_mlp_nano", lowrank={"name": "low_rank", "rank": 0.25})
    model(torch.randn(3, *model.default_cfg["input_size"])).square().sum().backward()
    for _, structure in model.lowrank.structures():  # type: ignore[union-attr]
        assert all(p.grad is not None and p.grad.any() for p in structure.parameters())


def test_an_activation_between_factors_is_part_of_the_bound() -> None:
    left, right = torch.randn(4, 2).double(), torch.randn(2, 3).double()
    model = nn.Sequential(FactoredLinear(Factors(left, right, between=nn.Tanh())))
    plain = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Tanh(), nn.Linear(2, 4, bias=False))
    with torch.no_grad():
        plain[0].weight, plain[2].weight = nn.Parameter(right), nn.Parameter(left)
    sample = torch.zeros(1, 3)
    assert certify(model, sample).lipschitz == certify(plain, sample).lipschitz < math.inf


@pytest.mark.parametrize("method", methods.names())
def test_a_hook_on_a_factored_layer_is_in_the_bound(method: str) -> None:
    torch.manual_seed(0)
    dense = {"min_kernel": 1} if "min_kernel" in methods[method].options else {}
    model = create_model("mlp_nano", lowrank={"name": method, **dense})
    layer = model.get_submodule("trunk.branches.0.0")
    before = certify(model, method="product", estimate=False)
    layer.register_forward_hook(lambda module, inputs, output: 1e6 * output)
    found = certify(model, method="product", estimate=False)
    # The skip beside the layer is not multiplied.
    assert found.lipschitz > 1e3 * before.lipschitz or before.lipschitz == math.inf
