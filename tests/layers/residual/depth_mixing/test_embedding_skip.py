"""The laws of the embedding skip, in float64."""

import pytest
import torch
from archzoo.layers.learning_rate import learning_rate_factors
from archzoo.layers.residual import Context, Site

from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack, trained

TOL = {"rtol": 0.0, "atol": 1e-12}  # some hundred roundings of float64


def test_the_embedding_returns_before_the_first_branch_of_every_block_and_nowhere_else():
    residual = build("embedding_skip")
    with torch.no_grad():
        residual.skip.copy_(torch.tensor([1.0, 10.0, 100.0]))
    x, state, reads = (
        torch.ones(1, WIDTH).double(),
        residual.open(torch.ones(1, WIDTH).double()),
        [],
    )
    for site in range(len(SITES)):
        h = residual.read(state, site)
        reads.append(h[0, 0].item())
        state = residual.write(state, site, 0.0 * x, Context(h, h))
    assert reads == [2.0, 2.0, 12.0, 12.0, 112.0, 112.0]
    assert residual.close(state)[0, 0].item() == 112.0


def test_a_closed_carry_starts_every_block_from_a_multiple_of_the_embedding():
    residual = build("embedding_skip")
    with torch.no_grad():
        residual.carry.zero_()
        residual.skip.fill_(3.0)
    x, weights = normal(2, 3, WIDTH), branch_weights()
    last = [Site("attention", 0), Site("mlp", 0)]
    alone = stack(build("add", sites=last), 3.0 * x, weights[-2:])
    torch.testing.assert_close(stack(residual, x, weights), alone, **TOL)


def test_a_stage_of_a_cnn_opens_with_its_own_embedding_and_mixes_by_its_own_scalars():
    sites = [Site("conv", block) for block in range(2)]
    first, second = (trained(build("embedding_skip", sites=sites), seed) for seed in range(2))
    x, y = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
    closed = fill(first, x, y.expand(2, *y.shape))
    state = first.handoff(closed, lambda x: 2.0 * x)
    torch.testing.assert_close(state[1], 2.0 * first.close(closed), **TOL)
    state = second.write(state, 0, y, Context(x, x))
    started = (second.carry[0] + second.skip[0]) * (opened := 2.0 * first.close(closed)) + y
    expected = second.carry[1] * started + second.skip[1] * opened
    torch.testing.assert_close(second.close(state), expected, **TOL)


@pytest.mark.parametrize("depth", [1, 4, 12])
def test_two_numbers_a_block(depth):
    sites = [Site(kind, block + 3) for block in range(depth) for kind in ("attention", "mlp")]
    count = sum(p.numel() for p in build("embedding_skip", sites=sites).parameters())
    assert count == 2 * depth


def test_the_stream_s_scalar_learns_a_hundred_times_slower():
    factors = learning_rate_factors(build("embedding_skip", rate=7.0))
    assert factors == {"carry": 0.07, "skip": 7.0}


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_out_of_range_is_refused_by_name(rate):
    with pytest.raises(ValueError, match=f"rate must be positive and finite, got {rate}"):
        build("embedding_skip", rate=rate)
