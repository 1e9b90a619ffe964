"""Pairs of plain layers in the place of factored ones."""

from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import SCHEMES, FixedRanks, reparametrize, structures
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
