"""A parameter with a learning rate of its own is marked once, stays marked, and gets it."""

import copy

import pytest
import torch
from archzoo.layers.learning_rate import (
    give_learning_rates,
    learning_rate_factors,
    set_learning_rate,
)
from torch import nn


class Owner(nn.Module):
    def __init__(self, **factors):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.skip = nn.Parameter(torch.zeros(2))
        self.linear = nn.Linear(3, 3)
        set_learning_rate(self, **factors)


def rates(model, optimizer):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}


def test_factors_are_collected_with_the_prefix_of_their_module():
    model = nn.Sequential(Owner(scale=0.5), nn.ModuleDict({"inner": Owner(skip=10.0)}))
    assert learning_rate_factors(model) == {"0.scale": 0.5, "1.inner.skip": 10.0}


def test_marks_survive_copies_and_replaced_tensors_and_stay_apart():
    owner = Owner(scale=0.5)
    twin = copy.deepcopy(owner)
    set_learning_rate(owner, skip=2.0)
    twin.scale = nn.Parameter(torch.ones(5))
    twin.to(torch.bfloat16).to_empty(device="meta")
    assert learning_rate_factors(twin) == {"scale": 0.5}
    assert learning_rate_factors(owner) == {"scale": 0.5, "skip": 2.0}


@pytest.mark.parametrize("build", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_gives_every_parameter_its_rate_and_keeps_the_rest_of_its_group(build):
    model = nn.Sequential(Owner(scale=0.25, skip=8.0), Owner(skip=8.0))
    vectors = [p for p in model.parameters() if p.dim() == 1]
    matrices = [p for p in model.parameters() if p.dim() == 2]
    groups = [
        {"params": vectors, "weight_decay": 0.0, "lr": 1.0},
        {"params": matrices, "weight_decay": 0.1, "lr": 2.0},
    ]
    optimizer = build(groups, lr=1.0)
    give_learning_rates(optimizer, model)
    factors = learning_rate_factors(model)
    expected = {n: factors.get(n, p.dim()) for n, p in model.named_parameters()}
    assert rates(model, optimizer) == expected
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {decays[id(p)] for p in vectors} == {0.0}
    assert {decays[id(p)] for p in matrices} == {0.1}


def test_a_step_moves_a_marked_parameter_by_its_own_rate():
    model = Owner(scale=0.5, skip=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    give_learning_rates(optimizer, model)
    (model.scale.sum() + model.skip.sum() + model.linear.bias.sum()).backward()
    before = model.linear.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.scale.detach(), torch.full((2,), 1 - 0.05))
    torch.testing.assert_close(model.skip.detach(), torch.full((2,), -0.4))
    torch.testing.assert_close(model.linear.bias.detach(), before - 0.1)


def test_the_first_group_has_the_optimiser_s_own_rate_even_where_all_of_it_was_marked():
    model = Owner(scale=0.5, skip=4.0)
    groups = [{"params": [model.scale, model.skip]}, {"params": [*model.linear.parameters()]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    give_learning_rates(optimizer, model)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.05, 0.4]


@pytest.mark.parametrize("build", [torch.optim.SGD, torch.optim.AdamW])
def test_names_stay_with_their_parameters(build):
    model = nn.Sequential(Owner(scale=0.5, skip=4.0), Owner(scale=0.5))
    optimizer = build(model.named_parameters(), lr=0.1)
    give_learning_rates(optimizer, model)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert [group["param_names"] for group in optimizer.param_groups] == found
    assert found[1:] == [["0.scale", "1.scale"], ["0.skip"]]


SCHEDULERS = {
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 10),
    "cyclic": lambda optimizer: torch.optim.lr_scheduler.CyclicLR(optimizer, 0.1, 0.2),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_rates_are_given_before_a_scheduler_and_refused_after_it(name):
    model = Owner(scale=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    SCHEDULERS[name](optimizer)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="call give_learning_rates before making it") as refused:
        give_learning_rates(optimizer, model)
    assert "\n" not in str(refused.value) and optimizer.state_dict() == before


def test_a_scheduler_that_is_made_afterwards_scales_every_rate():
    model = Owner(scale=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    give_learning_rates(optimizer, model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.025]


def test_an_optimiser_of_an_unmarked_model_is_left_as_it_is():
    model = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    before = optimizer.state_dict()
    give_learning_rates(optimizer, model)
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("name", ["scal", "linear", "linear.weight"])
def test_what_is_no_parameter_of_the_module_itself_is_refused(name):
    with pytest.raises(ValueError, match=f"Owner has no parameter {name!r}"):
        Owner(**{name: 1.0})


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_out_of_range_is_refused_by_name(factor):
    with pytest.raises(ValueError, match=f"factor of scale must be positive.*, got {factor}"):
        Owner(scale=factor)


def test_a_shared_parameter_has_one_factor():
    model = nn.Sequential(Owner(scale=0.5), Owner(scale=0.5))
    model[1].scale = model[0].scale
    assert learning_rate_factors(model) == {"0.scale": 0.5}
    set_learning_rate(model[1], scale=0.25)
    with pytest.raises(ValueError, match=r"scale of Owner is shared and has the factors 0.5 and"):
        learning_rate_factors(model)
