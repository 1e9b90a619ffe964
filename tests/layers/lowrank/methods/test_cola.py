"""Laws of CoLA: an activation between its factors, which start at the scale of a weight."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import CoLA, FactoredLinear, Factors, merge, reparametrize
from torch import nn
from torch.nn import functional as F

from ..lowrank_runs import begin, differing, network, run, take_step


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def test_the_output_is_the_left_factor_on_the_activation_of_the_right() -> None:
    model = nn.Sequential(nn.Linear(7, 5)).double()
    bias = copy.deepcopy(model[0].bias)
    reparametrize(model, CoLA(rank=3), ["0"])
    factors = model[0].structure
    assert isinstance(factors, Factors)
    x = torch.randn(4, 2, 7, dtype=torch.float64)
    expected = F.silu(x @ factors.right.T) @ factors.left.T + bias
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-13)
    assert sum(p.numel() for p in factors.parameters()) == 3 * (7 + 5)


def test_both_factors_start_normal_with_one_deviation_and_their_product_at_that_of_a_weight() -> (
    None
):
    model = nn.Sequential(nn.Linear(400, 300))
    reparametrize(model, CoLA(rank=64), ["0"])
    factors = model[0].structure
    assert isinstance(factors, Factors)
    deviation = 700**-0.25 * 64**-0.25
    for factor in (factors.left, factors.right):
        # 19,200 numbers at least: the sample's relative error is below a hundredth.
        torch.testing.assert_close(factor.std().item(), deviation, rtol=0.03, atol=0)
        kurtosis = (factor / factor.std()).pow(4).mean()
        torch.testing.assert_close(kurtosis, torch.tensor(3.0), rtol=0.1, atol=0)
    product = factors.left @ factors.right
    torch.testing.assert_close(product.std().item(), 700**-0.5, rtol=0.03, atol=0)


def test_what_the_weight_was_is_not_used() -> None:
    made = []
    for seed in (0, 1):
        model = network(seed)
        reparametrize(model, CoLA(rank=2), ["3"])
        made.append(model[3].structure)
    assert not differing(made[0].state_dict(), made[1].state_dict())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_has_the_activation_between_its_two_kernels(groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)).double()
    reparametrize(model, CoLA(rank=2), ["0"])
    conv = model[0]
    left, right = conv.structure.left, conv.structure.right  # type: ignore[union-attr]
    first, second = conv.settings.unfolding.kernels(left, right)  # type: ignore[union-attr]
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    hidden = F.silu(F.conv2d(x, first, stride=2, padding=1, groups=groups))
    expected = F.conv2d(hidden, second, conv.bias, groups=groups)  # type: ignore[arg-type]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-13)


def test_no_matrix_equals_it_and_it_stays_as_a_chain_of_plain_layers() -> None:
    model = nn.Sequential(nn.Linear(7, 5)).double()
    reparametrize(model, CoLA(rank=3), ["0"])
    layer = model[0]
    assert isinstance(layer, FactoredLinear)
    for dense in (layer.to_dense, layer.structure.dense, lambda: merge(model)):
        with pytest.raises(ValueError, match="has an activation between its factors|have an act"):
            dense()
    assert merge(model, strict=False) == [] and model[0] is layer
    x = torch.randn(4, 7, dtype=torch.float64)
    assert torch.equal(layer.to_sequence()(x), model(x))


def test_a_raw_matrix_is_refused() -> None:
    from archzoo.layers.hyperbolic import PoincareLinear

    with pytest.raises(ValueError, match="needs a matrix"):
        reparametrize(nn.Sequential(PoincareLinear(6, 6)), CoLA(rank=2), ["0:weight"])


def test_all_parts_learn_and_a_run_goes_on_from_its_files() -> None:
    model, _, optimizer = begin(CoLA(rank=2), adamw)
    take_step(model, optimizer, 0)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    def method() -> CoLA:
        return CoLA(rank=2)

    assert not differing(run(method, adamw, 6)[0], run(method, adamw, 6, 3)[0])


def test_a_rank_that_no_weight_has_is_refused() -> None:
    with pytest.raises(ValueError, match="rank must be"):
        CoLA(rank=0)
