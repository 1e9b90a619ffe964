"""What Deep Delta Learning refuses: numbers, choices, branches and shapes that it cannot use."""

import math
import re

import pytest
from archzoo.layers.residual import Delta, Site
from archzoo.zoo import create_model
from archzoo.zoo.trunk import Trunk
from torch import nn

from ..stacks import SITES, WIDTH, build, normal
from .delta_parts import (
    ALONG_TOKENS,
)


def zero_ended() -> nn.Module:
    branch = nn.Sequential(nn.Linear(WIDTH, 3), nn.ReLU(), nn.Linear(3, WIDTH))
    nn.init.zeros_(branch[-1].weight)
    return branch


def test_a_branch_that_starts_as_zero_is_refused_by_name():
    sites = [Site("mlp", 0), Site("mlp", 1)]
    branches = [nn.Linear(WIDTH, WIDTH), zero_ended()]
    parts = branches, [nn.Identity(), nn.Identity()], [0.0, 0.0]
    Trunk(build("add", sites=sites), *parts).check_branches()
    with pytest.raises(ValueError, match="branch at site 1 ends in .* zeros, and Delta cannot"):
        Trunk(build("delta", sites=sites), *parts).check_branches()
    nn.init.normal_(branches[1][-1].weight, std=1e-4)
    Trunk(build("delta", sites=sites), *parts).check_branches()


@pytest.mark.parametrize("name", ["delta", "delta_cc"])
def test_a_model_whose_short_attention_starts_as_zero_is_refused(name):
    assert create_model("gpt_nano", residual="add", short_window=4)
    with pytest.raises(ValueError, match="branch at site 0 ends in .* zeros, and Delta cannot"):
        create_model("gpt_nano", residual=name, short_window=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_channels": 0}, "value_channels must be at least 1, got 0"),
        ({"gate_hidden": 0}, "gate_hidden must be at least 1 or None, got 0"),
        ({"initial_beta": 0.0}, "initial_beta must lie inside (0, 2), got 0.0"),
        ({"initial_beta": 2.0}, "initial_beta must lie inside (0, 2), got 2.0"),
        ({"frozen_beta": -0.1}, "frozen_beta must lie in [0, 2], got -0.1"),
        ({"frozen_beta": 2.1}, "frozen_beta must lie in [0, 2], got 2.1"),
        ({"parameterisation": "v1", "mode": "erase_only"}, "mode='erase_only' has no use for the"),
        ({"initial_beta": math.nan}, "initial_beta must lie inside (0, 2), got nan"),
    ],
    ids=str,
)
def test_a_bad_number_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build("delta", **options)


@pytest.mark.parametrize("name", ["expand", "compress", "cc_form", "parameterisation", "mode"])
def test_an_unknown_choice_is_refused_by_the_class_itself(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'other'"):
        Delta(WIDTH, SITES, **{name: "other"})


@pytest.mark.parametrize("form", ALONG_TOKENS, ids=str)
def test_a_look_along_the_tokens_of_images_is_refused(form):
    with pytest.raises(ValueError, match="look along tokens, which images do not have"):
        build("delta", channel_dim=1, **form)
    with pytest.raises(ValueError, match=r"looks along tokens \(B, T, D\), got shape \(2, 3, 4, 5"):
        build("delta", **form).open(normal(2, 3, 4, WIDTH))
    # One column is neither made nor read by a convolution.
    assert build("delta", channel_dim=1, **(form | {"value_channels": 1})).value_channels == 1
