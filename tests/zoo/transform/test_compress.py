"""Cutting a trained model to fixed ranks, and choosing them for a budget."""

import copy
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import (
    TRP,
    FactoredConv2d,
    break_even,
    reestimate_batch_norm,
    reparametrize,
    structures,
)
from archzoo.layers.lowrank.methods.trp import project_energy
from archzoo.zoo.network import Network
from archzoo.zoo.share.create import create_model
from archzoo.zoo.share.save_load import save_model
from archzoo.zoo.transform.compress import decompose, factorize, fixed_ranks, ranks_by
from archzoo.zoo.transform.costs import Costs, costs_of, count_macs, latencies
from archzoo.zoo.transform.rank_search import search_ranks, spectrum_ranks
from torch import nn

from ...close import assert_close_in_scale

SCHEMES = ("channel", "spatial", "input")


def images(seed: int = 0, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(lowrank: Any = None, seed: int = 0) -> Network:
    """A small ResNet in eval mode whose batch norms have seen something."""
    torch.manual_seed(seed)
    model = create_model("resnet_nano", widths=(6, 8), depths=(1, 1), lowrank=lowrank)
    reestimate_batch_norm(model, [images(1, 16)])
    return model.eval()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def low_rank_(model: nn.Module, energy: float) -> None:
    """Project the kernels, as the last step of trained rank pruning would leave them."""
    for target in reparametrize(model, TRP(scheme="spatial")).targets.values():
        target.assign(project_energy(target.matrix(), energy)[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_components_together_are_the_model(scheme: Any) -> None:
    model = network()
    controller = factorize(model, scheme=scheme)
    assert controller.factors().keys() == controller.targets.keys()
    assert_close_in_scale(controller.model(images()), model(images()), 3e-5)


def test_a_model_that_was_just_projected_decomposes_without_loss() -> None:
    model = network()
    low_rank_(model, 0.3)
    small = decompose(model, energy=1e-6, scheme="spatial")
    assert parameters(small) < parameters(model)
    assert (small(images()) - model(images())).abs().max() < 1e-4


def test_the_model_itself_is_left_as_it_is() -> None:
    model = network({"name": "maestro", "scheme": "spatial"})
    before = copy.deepcopy(model.state_dict())
    decompose(model, energy=0.5)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_weights_that_would_not_become_smaller_stay_dense_in_every_bit() -> None:
    model = network()
    controller = factorize(model, scheme="spatial")
    ranks = {name: f.allocated for name, f in controller.factors().items()}
    whole = fixed_ranks(model, controller, ranks)
    assert not list(structures(whole))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True)
    )
    name = next(n for n, f in controller.factors().items() if break_even(f.shape) > 2)
    one = fixed_ranks(model, controller, {name: 1})
    assert [found for found, _, _ in structures(one)] == [name]


def test_a_maestro_model_is_cut_in_its_own_order_and_others_by_singular_values() -> None:
    model = network({"name": "maestro", "scheme": "channel"})
    name, layer, structure = next(structures(model))
    with torch.no_grad():  # the least important direction first
        structure.left.copy_(structure.left.flip(-1))
        structure.right.copy_(structure.right.flip(-2))
    cut = dict((n, s) for n, _, s in structures(decompose(model, ranks={name: 2})))
    torch.testing.assert_close(
        cut[name].dense(), structure.left[:, :2] @ structure.right[:2], rtol=0, atol=1e-6
    )
    best = dict((n, s) for n, _, s in structures(decompose(model, ranks={name: 2}, ordered=False)))
    error = {n: (s - structure.dense()).norm() for n, s in
             {"own": cut[name].dense(), "best": best[name].dense()}.items()}  # fmt: skip
    assert error["best"] < error["own"]
    assert isinstance(layer, FactoredConv2d)


@pytest.mark.parametrize("method", ["maestro", "trp", None])
def test_an_exported_model_is_rebuilt_from_its_folder(method: str | None, tmp_path: Any) -> None:
    model = network(None if method is None else {"name": method, "scheme": "spatial"})
    small = decompose(model, energy=0.5, scheme="spatial")
    assert list(structures(small))
    save_model(small, tmp_path)
    again = create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again(images()), small(images()))
    assert parameters(again) == parameters(small)


def test_a_model_outside_the_zoo_is_cut_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16))
    small = decompose(model, ranks={"0": 3, "2": 2})
    assert {n: s.rank for n, _, s in structures(small)} == {"0": 3, "2": 2}
    assert parameters(small) == 3 * 32 + 20 + 2 * 36 + 16


def test_energy_and_threshold_keep_the_smallest_ranks_that_satisfy_them() -> None:
    controller = factorize(network(), scheme="spatial")
    for name, factors in controller.factors().items():
        values = torch.linalg.svdvals(factors.dense().detach().double())
        rank = ranks_by(controller, threshold=float(values[2]) - 1e-6)[name]
        assert rank == 3
        kept = ranks_by(controller, energy=0.2)[name]
        lost = values.square().flip(0).cumsum(0).flip(0) / values.square().sum()
        assert lost[kept] <= 0.2 < lost[kept - 1]


# Costs


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("metric", ["parameters", "macs"])
def test_costs_are_those_of_the_model_that_is_then_made(scheme: Any, metric: Any) -> None:
    model = network()
    controller = factorize(model, scheme=scheme)
    costs = costs_of(controller, metric, images(count=1))
    ranks = {n: 2 for n, f in controller.factors().items() if break_even(f.shape) > 2}
    small = fixed_ranks(model, controller, ranks)
    count = parameters if metric == "parameters" else lambda m: count_macs(m, images(count=1))
    assert costs.total == count(model)
    assert costs.of(ranks) == count(small)


@pytest.mark.long
def test_latency_is_measured_for_every_layer_and_lies_between_the_measured_ranks() -> None:
    controller = factorize(network(), scheme="spatial", targets=["stages.1.*"])
    costs = costs_of(controller, "latency", images())
    assert costs.total > 0
    for name, factors in controller.factors().items():
        times = [costs.weights[name].at(rank) for rank in range(1, factors.allocated + 1)]
        assert all(time > 0 for time in times)
        assert costs.weights[name].dense > 0
    slow, fast = latencies([nn.Linear(512, 512), nn.Identity()], torch.randn(64, 512), seconds=0.0)
    assert slow > 0 and fast > 0


# Search


def error_of(model: nn.Module) -> Any:
    expected = model(images(2, 16))
    return lambda trial: float((trial(images(2, 16)) - expected).square().mean())


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("search", [search_ranks, spectrum_ranks])
def test_a_search_meets_its_budget_and_leaves_the_model_alone(search: Any, share: float) -> None:
    model = network()
    controller = factorize(model, scheme="spatial")
    before = copy.deepcopy(controller.model.state_dict())
    costs = costs_of(controller, "parameters")
    arguments = (error_of(model),) if search is search_ranks else ()
    ranks = search(controller, costs, share * costs.total, *arguments)
    assert parameters(fixed_ranks(model, controller, ranks)) <= share * parameters(model)
    after = controller.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_budget_of_the_whole_model_costs_nothing_and_an_impossible_one_is_named() -> None:
    controller = factorize(network(), scheme="spatial")
    costs = costs_of(controller, "parameters")
    for search in (lambda b: search_ranks(controller, costs, b, lambda _: 0.0),
                   lambda b: spectrum_ranks(controller, costs, b)):  # fmt: skip
        assert search(costs.total) == {}
        with pytest.raises(ValueError, match="cannot be met"):
            search(0.01 * costs.total)


def test_the_search_takes_from_the_weight_that_the_loss_does_not_need() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    controller = factorize(model)
    costs = costs_of(controller, "parameters")

    def loss(trial: Any) -> float:
        return float((trial[0].weight - model[0].weight).square().sum())

    ranks = search_ranks(controller, costs, 0.65 * costs.total, loss)
    assert set(ranks) == {"1"}


def test_components_of_no_energy_are_the_first_to_go() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[:, :3] @ model[0].weight[:3])
    controller = factorize(model)
    costs = costs_of(controller, "parameters")
    assert search_ranks(controller, costs, 0.8 * costs.total, lambda _: 0.0) == {"0": 3}


# Errors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "exactly one of ranks, energy and threshold"),
        ({"energy": 0.1, "threshold": 0.1}, "exactly one of"),
        ({"energy": 1.0}, r"energy must be a share in \[0, 1\)"),
        ({"threshold": -1.0}, "threshold must be at least 0"),
        ({"ranks": {"stem.1": 2}}, "'stem.1' is no target"),
        ({"ranks": {"stages.0.branches.0.0": 0}}, "has ranks from 1 to 18, got 0"),
        ({"ranks": {"stages.0.branches.0.0": 19}}, "has ranks from 1 to 18, got 19"),
        ({"ranks": {"stages.0.branches.0.0": 2}, "targets": ["nothing"]}, "'nothing' matches no"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        decompose(network(), scheme="spatial", **arguments)


def test_the_trained_order_is_of_the_trained_unfolding() -> None:
    model = network({"name": "maestro", "scheme": "channel"})
    with pytest.raises(ValueError, match="scheme='spatial': the order of components"):
        factorize(model, scheme="spatial")
    factorize(model, scheme="spatial", ordered=False)


def test_an_unknown_metric_or_a_missing_sample_is_named() -> None:
    controller = factorize(network())
    with pytest.raises(ValueError, match="metric must be one of parameters, macs, latency"):
        costs_of(controller, "joules")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs sample"):
        costs_of(controller, "macs")
    assert isinstance(costs_of(controller, "parameters"), Costs)
