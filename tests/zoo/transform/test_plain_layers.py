"""Pairs of plain layers in the place of factored ones."""

from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import SCHEMES, CoLA, Factors, FixedRanks, reparametrize, structures
from archzoo.zoo.transform.plain_layers import plain_layers
from torch import nn


@pytest.mark.parametrize("scheme", SCHEMES)
def test_plain_layers_give_the_outputs_of_factors(scheme: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode="reflect"), nn.ReLU(),
        nn.Conv2d(6, 8, (3, 1), dilation=2, bias=False), nn.Flatten(), nn.LazyLinear(5),
    ).double()  # fmt: skip
    x = torch.randn(2, 3, 11, 11, dtype=torch.float64)
    model(x)
    model[4] = nn.Linear(model[4].in_features, 5).double()
    reparametrize(model, FixedRanks(ranks={"0": 1, "2": 1, "4": 2}, scheme=scheme), ["0", "2", "4"])
    plain = plain_layers(model)
    assert not list(structures(plain)) and len(list(structures(model))) == 3
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-13)  # the same sums
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())


def test_groups_go_to_both_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, padding=1)).double()
    reparametrize(model, FixedRanks(ranks={"0": 2}), ["0"])
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(plain_layers(model)(x), model(x), rtol=0, atol=1e-13)


def test_what_plain_layers_cannot_say_stays_factored() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 2, padding="same"))
    reparametrize(model, FixedRanks(ranks={"0": 2}), ["0"])
    assert len(list(structures(plain_layers(model)))) == 1


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, groups=1, padding=1)])
def test_an_activation_between_two_factors_stands_between_two_layers(layer: nn.Module) -> None:
    model = nn.Sequential(layer).double()
    reparametrize(model, CoLA(rank=2), ["0"])
    x = torch.randn(2, 6, 6, 6, dtype=torch.float64)
    plain = plain_layers(model)
    assert [type(part) for part in plain[0]] == [type(layer), nn.SiLU, type(layer)]
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-13)


def test_a_pair_of_plain_layers_is_two_layers_and_nothing_between() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    reparametrize(model, FixedRanks(ranks={"0": 2}), ["0"])
    assert [type(part) for part in plain_layers(model)[0]] == [nn.Linear, nn.Linear]


def test_a_prefix_that_a_training_step_drew_does_not_shorten_plain_layers() -> None:
    model = nn.Sequential(nn.Linear(6, 5)).double()
    reparametrize(model, FixedRanks(ranks={"0": 3}), ["0"])
    structure = model[0].structure
    assert isinstance(structure, Factors)
    structure.sampled = 1
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(plain_layers(model.train())(x), model.eval()(x), rtol=0, atol=1e-13)
    assert structure.sampled == 1  # the model itself goes on training


def test_rank_zero_and_frozen_weights_stay_what_they_are() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    reparametrize(model, FixedRanks(ranks={"0": 2, "1": 1}), ["0", "1"])
    model[0].requires_grad_(False)
    assert isinstance(model[1].structure, Factors)
    model[1].structure.rank = 0
    plain = plain_layers(model)
    assert not any(p.requires_grad for p in plain[0].parameters())
    assert len(list(structures(plain))) == 1
