"""The trunk runs any branches over any residual and drops them by the rates it was given."""

import pytest
import torch
from archzoo.layers.residual import Site
from archzoo.zoo.axes.residuals import make_residual, residual_config, residuals
from archzoo.zoo.trunk import Trunk, drop_path_rates
from torch import nn

WIDTH = 4


def trunk(rates, residual="add"):
    """Return a trunk whose branches are linear, with no norm."""
    return Trunk(
        make_residual(residual, WIDTH, [Site("mlp", i) for i in range(len(rates))]),
        [nn.Linear(WIDTH, WIDTH) for _ in rates],
        [nn.Identity() for _ in rates],
        rates,
    )


def test_rates_grow_linearly_from_zero_to_the_last():
    assert drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.0, 3) == [0.0, 0.0, 0.0]
    assert drop_path_rates(0.5, 1) == [0.0]


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match="drop_path_rate must lie in"):
        drop_path_rates(rate, 4)


def test_a_trunk_adds_its_branches():
    model, x = trunk([0.0, 0.0]), torch.randn(3, WIDTH)
    first = x + model.branches[0](x)
    # Two sums in float32.
    torch.testing.assert_close(model(x), first + model.branches[1](first))


def test_a_sample_keeps_a_branch_scaled_up_or_loses_it_whole():
    torch.manual_seed(0)
    model, x = trunk([0.25]), torch.zeros(4000, 2, WIDTH)
    with torch.no_grad():
        model.branches[0].bias.fill_(3.0)
        y = model(x)
    kept = y[:, 0, 0] > 0
    torch.testing.assert_close(y, kept[:, None, None] * torch.full_like(y, 4.0))
    # The share of 4000 draws spreads by 0.007.
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_nothing_is_dropped_in_evaluation():
    model, x = trunk([0.9, 0.9]).eval(), torch.randn(50, WIDTH)
    plain = trunk([0.0, 0.0])
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), plain(x), rtol=0.0, atol=0.0)


def test_extras_reach_their_branch():
    class Plus(nn.Module):
        def forward(self, x, *more):
            return sum(more, torch.zeros_like(x))

    sites = [Site("mlp", 0), Site("mlp", 1)]
    model = Trunk(
        make_residual("add", WIDTH, sites), [Plus(), Plus()], [nn.Identity()] * 2, [0.0] * 2
    )
    x = torch.zeros(1, WIDTH)
    assert torch.equal(model(x, [(1.0, 2.0), (10.0,)]), torch.full((1, WIDTH), 13.0))


def test_parts_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="sites, branches, norms, drop_path differ in length"):
        Trunk(
            make_residual("add", 4, [Site("mlp", 0)]), [nn.Identity()] * 2, [nn.Identity()], [0.0]
        )


# The residual argument of every backbone.


@pytest.mark.parametrize("name", residuals.names())
def test_a_name_a_mapping_and_a_builder_are_one_mechanism(name):
    sites = [Site("attention", 0), Site("attention", 1)]
    builder = residuals[name].build
    made = [make_residual(spec, 4, sites) for spec in (name, {"name": name}, builder)]
    assert len({repr(one) for one in made}) == 1
    assert [residual_config(spec) for spec in (name, {"name": name}, builder)] == [name] * 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ad", "no residual named 'ad'; did you mean 'add'"),
        ({"block_size": 2}, "has no 'name'; give one of add, attnres"),
        ({"name": "attnres", "block_size": 2}, "attnres takes no keyword 'block_size'"),
        ({"name": "block_attnres", "block_size": "2"}, "block_size must be .*got '2'"),
        ({"name": None}, "no residual named None"),
        (7, "residual must be a name, a mapping or a builder, got 7"),
    ],
)
def test_a_residual_that_is_none_is_refused_by_name(spec, message):
    with pytest.raises(ValueError, match=message):
        make_residual(spec, 4, [Site("mlp", 0)])


def test_a_mapping_is_not_changed():
    spec = {"name": "block_attnres", "block_size": 2}
    make_residual(spec, 4, [Site("mlp", 0)])
    assert spec == {"name": "block_attnres", "block_size": 2}
