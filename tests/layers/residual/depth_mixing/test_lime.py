"""The laws of layer-integrated memory, in float64."""

import pytest
import torch
from archzoo.layers.residual import Context, Site
from torch import Tensor

from ..stacks import build, normal, trained

TOL = {"rtol": 1e-13, "atol": 1e-13}  # a few dozen roundings of float64
SITES = [Site("attention", block) for block in range(3)]
SHAPE = (2, 4, 3, 5)  # (B, heads, T, d)
HEADS = SHAPE[1]


def own(place: int) -> tuple[Tensor, Tensor]:
    return normal(*SHAPE, seed=place), normal(*SHAPE, seed=10 + place)


def mixed(residual) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values that each of three attentions attends to."""
    state, found = residual.open(x := normal(2, 3, 20)), []
    for site in range(3):
        found.append(residual.mix_heads(state, site, *own(site)))
        state = residual.write(state, site, x, Context(x, x, None, own(site)))
    return found


def test_a_head_mixes_the_heads_of_all_branches_up_to_its_own_by_one_route():
    residual = trained(build("lime", width=20, sites=SITES, num_heads=HEADS))
    for place, pair in enumerate(mixed(residual)):
        for part, found in enumerate(pair):
            if not place:
                torch.testing.assert_close(found, own(0)[part], rtol=0.0, atol=0.0)
                continue
            route = residual.route[str(place)]
            for head in range(HEADS):
                expected = sum(
                    route[head, branch * HEADS + other] * own(branch)[part][:, other]
                    for branch in range(place + 1)
                    for other in range(HEADS)
                )
                torch.testing.assert_close(found[:, head], expected, **TOL)


def test_without_a_number_of_heads_one_weight_serves_all_of_them():
    residual = trained(build("lime", width=20, sites=SITES))
    for place, pair in enumerate(mixed(residual)[1:], 1):
        weights = residual.route[str(place)][0]
        for part, found in enumerate(pair):
            expected = sum(weights[branch] * own(branch)[part] for branch in range(place + 1))
            torch.testing.assert_close(found, expected, **TOL)


@pytest.mark.parametrize("num_heads", [None, HEADS])
def test_a_fresh_network_attends_to_its_own_keys_and_values(num_heads):
    for place, pair in enumerate(mixed(build("lime", width=20, sites=SITES, num_heads=num_heads))):
        torch.testing.assert_close(pair, own(place), rtol=0.0, atol=0.0)


def test_it_owns_one_weight_for_each_pair_of_heads():
    count = sum(p.numel() for p in build("lime", sites=SITES, num_heads=HEADS).parameters())
    assert count == HEADS * (2 * HEADS + 3 * HEADS)


def test_another_number_of_heads_is_refused_by_name():
    residual = build("lime", width=20, sites=SITES, num_heads=3)
    with pytest.raises(ValueError, match="site 0 has 4 heads, .* made for num_heads=3"):
        mixed(residual)
    with pytest.raises(ValueError, match="num_heads must be at least 1 or None, got 0"):
        build("lime", num_heads=0)
