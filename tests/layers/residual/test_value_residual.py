"""The laws of the value residual, in float64."""

import pytest
import torch
from archzoo.layers.residual import Context, Site, ValueResidual
from torch import Tensor

from .stacks import build, normal

BITWISE = {"rtol": 0.0, "atol": 0.0}
DEEP = [Site(kind, block) for block in range(5) for kind in ("attention", "mlp")]
SHAPE = (2, 3, 4, 5)  # (B, heads, T, d)


def mixed(residual, seeds: range) -> list[Tensor]:
    """Return v'_l of attention branches whose own values are drawn from the seeds."""
    state, found = residual.open(x := normal(2, 4, 15)), []
    for site in range(len(residual.sites)):
        heads = None
        if residual.sites[site].attends:
            key, value = normal(*SHAPE, seed=99), normal(*SHAPE, seed=seeds[len(found)])
            kept, values = residual.mix_heads(state, site, key, value)
            assert kept is key
            found.append(values)
            heads = (key, value)
        state = residual.write(state, site, x, Context(x, x, None, heads))
    return found


@pytest.mark.parametrize("form", ["identity", "learned"])
def test_a_fresh_network_takes_half_of_the_first_and_half_of_its_own(form):
    first, *later = mixed(build("value_residual", width=15, sites=DEEP, form=form), range(5))
    torch.testing.assert_close(first, normal(*SHAPE, seed=0), **BITWISE)
    for seed, values in enumerate(later, 1):
        expected = 0.5 * first + 0.5 * normal(*SHAPE, seed=seed)
        torch.testing.assert_close(values, expected, **BITWISE)


@pytest.mark.parametrize("layers", [1, 3, 4, 5, 9])
def test_sparse_mixes_the_last_branches_and_never_the_first(layers):
    found = mixed(
        build("value_residual", width=15, sites=DEEP, form="sparse", layers=layers), range(5)
    )
    for place, values in enumerate(found):
        own = normal(*SHAPE, seed=place)
        mixes = place >= max(1, 5 - layers)
        expected = 5.0 * normal(*SHAPE, seed=0) + own if mixes else own
        torch.testing.assert_close(values, expected, **BITWISE)


def test_the_first_values_are_those_before_any_mixture_and_are_read_by_all_others():
    residual = build("value_residual", width=15, sites=DEEP)
    with torch.no_grad():
        residual.weight.copy_(torch.tensor([1.0, 0.0]).expand(4, 2))
    for values in mixed(residual, range(5)):
        torch.testing.assert_close(values, normal(*SHAPE, seed=0), **BITWISE)


def test_attentions_count_whatever_their_kind_and_whatever_stands_between():
    sites = [Site("mlp", 0), Site("short_attention", 0), Site("attention", 0), Site("mlp", 0)]
    residual = build("value_residual", width=15, sites=sites)
    assert residual.attentions == (1, 2) and residual.weight.shape == (1, 2)
    first, second = mixed(residual, range(2))
    torch.testing.assert_close(second, 0.5 * first + 0.5 * normal(*SHAPE, seed=1), **BITWISE)


@pytest.mark.parametrize("form", ["identity", "sparse", "learned"])
def test_one_attention_has_nothing_to_mix_with_and_no_parameter(form):
    residual = build("value_residual", width=15, sites=DEEP[:2], form=form)
    assert not [*residual.parameters()]
    torch.testing.assert_close(mixed(residual, range(1))[0], normal(*SHAPE, seed=0), **BITWISE)


def test_sites_without_attention_are_refused_by_name():
    for name in ("value_residual", "lime"):
        with pytest.raises(ValueError, match="and the branches here are conv, mlp alone"):
            build(name, sites=[Site("mlp", 0), Site("conv", 0)])


def test_a_bad_choice_is_refused_by_name():
    with pytest.raises(ValueError, match="form must be 'identity', 'sparse' or .*, got 'dense'"):
        ValueResidual(15, DEEP, form="dense")  # pyright: ignore
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        build("value_residual", form="sparse", layers=0)
