"""The laws of depth-weighted averages, in float64."""

import pytest
import torch
from archzoo.layers.residual import Site

from ..stacks import WIDTH, branch_weights, build, normal, stack

TOL = {"rtol": 0.0, "atol": 1e-12}  # some hundred roundings of float64
BLOCKS = 5
SITES = [Site(kind, block) for block in range(BLOCKS) for kind in ("attention", "mlp")]


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_fresh_average_is_the_newest_state(dilation):
    residual = build("denseformer", sites=SITES, dilation=dilation)
    x, weights = normal(2, 3, WIDTH), branch_weights(len(SITES))
    plain = stack(build("add", sites=SITES), x, weights)
    torch.testing.assert_close(stack(residual, x, weights), plain, **TOL)


@pytest.mark.parametrize("depth", [1, 4, 12])
def test_it_owns_the_papers_number_of_weights(depth):
    sites = [Site(kind, block) for block in range(depth) for kind in ("attention", "mlp")]
    count = sum(p.numel() for p in build("denseformer", sites=sites).parameters())
    assert count == depth * (depth + 3) // 2


def test_blocks_count_from_the_first_site_of_a_stage():
    later = [Site(site.kind, site.block + 7) for site in SITES]
    names = {name for name, _ in build("denseformer", sites=later).named_parameters()}
    assert names == {name for name, _ in build("denseformer", sites=SITES).named_parameters()}


@pytest.mark.parametrize("name", ["dilation", "period"])
def test_a_size_below_one_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        build("denseformer", **{name: 0})
