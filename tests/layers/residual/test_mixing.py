"""The parts that mechanisms are made of, and what freezing the routing does to a read."""

import pytest
import torch
from archzoo.layers.residual import Context, frozen_routing
from archzoo.layers.residual.depth_mixing.block_history import BlockHistory
from archzoo.layers.residual.mixing import project, rms_norm, weighted_sum
from archzoo.layers.residual.stream import Site
from torch.func import jvp
from torch.utils._pytree import tree_flatten, tree_unflatten

from .stacks import SITES, WIDTH, branch_weights, build, normal, states, tensors, trained

EXACT = {"rtol": 0.0, "atol": 1e-13}  # some ten roundings of float64 at unit scale
BITWISE = {"rtol": 0.0, "atol": 0.0}


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_a_normed_tensor_has_unit_mean_square_along_its_channels(channel_dim):
    x = 7.0 * normal(2, 3, 4, WIDTH).movedim(-1, channel_dim)
    square = rms_norm(x, channel_dim, eps=0.0).square().mean(channel_dim)
    torch.testing.assert_close(square, torch.ones_like(square), **EXACT)


@pytest.mark.parametrize("shape", [(2, WIDTH), (2, 3, WIDTH), (2, 3, 4, WIDTH)])
def test_a_projection_is_a_matrix_on_the_channels(shape):
    x, weight = normal(*shape), normal(2, WIDTH, seed=1)
    expected = torch.einsum("od,...d->...o", weight, x)
    torch.testing.assert_close(project(x, weight), expected, **EXACT)
    image = project(x.movedim(-1, 1), weight, 1)
    torch.testing.assert_close(image.movedim(1, -1), expected, **EXACT)


def test_a_weighted_sum_is_summed_in_the_dtype_of_its_weights():
    values = [normal(2, 3).bfloat16() for _ in range(3)]
    weights = [torch.full((2, 1), 1.0), torch.full((2, 1), 2.0**-12), torch.full((2, 1), -1.0)]
    mixed = weighted_sum(weights, values)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, 2.0**-12 * values[0], **BITWISE)


def test_a_weighted_sum_needs_as_many_weights_as_values():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        weighted_sum([torch.ones(1)], [torch.ones(1)] * 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["muddformer", "dca", "highway", "depth_swa", "deepnorm"])
def test_half_precision_stays_half_and_close(name, dtype):
    exact = trained(build(name))
    low = trained(build(name)).to(dtype)
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    results = []
    for residual, cast in ((exact, torch.float64), (low, dtype)):
        state = residual.open(x.to(cast))
        for site, y in enumerate(ys.to(cast)):
            h = residual.read(state, site)
            state = residual.write(state, site, y, Context(h, h))
            assert all(t.dtype == cast for t in tensors(state))
        results.append(residual.close(state).double())
    # Eight bits of mantissa, through six branches and weights of size one to ten.
    assert (results[1] - results[0]).norm() < 0.1 * results[0].norm()


# Where blocks begin and end.


def test_blocks_are_runs_of_one_number_and_may_start_anywhere():
    kinds = ["short_attention", "attention", "mlp", "attention", "mlp", "conv"]
    sites = [Site(k, b) for k, b in zip(kinds, [4, 4, 4, 5, 5, 7], strict=True)]
    residual = BlockHistory(WIDTH, sites)
    assert residual.opening == [True, False, False, True, False, True]
    assert residual.ending == [False, False, True, False, True, True]
    assert residual.ordinal == [0, 0, 0, 1, 1, 2]
    assert [residual.mixes(i) for i in range(6)] == [False, False, False, True, False, True]


@pytest.mark.parametrize("name", ["muddformer", "dca"])
def test_any_attention_that_opens_a_later_block_takes_views(name):
    for kind in ("attention", "short_attention"):
        sites = [Site(k, b) for b in range(2) for k in (kind, "attention", "mlp")]
        residual = build(name, sites=sites)
        three = ("query", "key", "value")
        assert [residual.views(i) for i in range(6)] == [(), (), (), three, (), ()]


@pytest.mark.parametrize("name", ["muddformer", "dca"])
def test_a_branch_of_another_kind_takes_one_tensor(name):
    sites = [Site("conv", block) for block in range(3)]
    residual = build(name, sites=sites)
    assert [residual.views(i) for i in range(3)] == [(), (), ()]


@pytest.mark.parametrize("name", ["muddformer", "dca"])
def test_what_is_closed_before_the_last_block_is_the_plain_stream(name):
    residual, x, y = trained(build(name)), normal(2, WIDTH), normal(2, WIDTH, seed=1)
    state = residual.write(residual.open(x), 0, y, Context(x, x))
    torch.testing.assert_close(residual.close(state), x + y, **BITWISE)
    torch.testing.assert_close(residual.read(state, 1), x + y, **BITWISE)
    state = residual.write(state, 1, y, Context(x, x))
    torch.testing.assert_close(residual.close(state), x + y + y, **EXACT)


# Routing.


@pytest.mark.parametrize("channel_dim", [-1, 1])
@pytest.mark.parametrize("name", ["muddformer", "dca", "highway", "depth_swa", "deepnorm"])
def test_with_the_routing_frozen_every_verb_is_linear_in_the_state(name, channel_dim):
    residual = trained(build(name, channel_dim=channel_dim))
    x, ys = normal(2, 3, 4, WIDTH), normal(len(SITES), 2, 3, 4, WIDTH, seed=1)
    x, ys = x.movedim(-1, channel_dim), ys.movedim(-1, channel_dim + (channel_dim > 0))
    state = residual.open(x)
    with frozen_routing():
        for site in range(len(SITES) + 1):
            leaves, spec = tree_flatten(state)
            flat = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

            def look(*moved, leaves=leaves, spec=spec, site=site):
                rest = iter(moved)
                new = [next(rest) if isinstance(v, torch.Tensor) else v for v in leaves]
                state = tree_unflatten(new, spec)
                if site == len(SITES):
                    return residual.close(state)
                h = residual.read(state, site)
                return tuple(h.values()) if isinstance(h, dict) else h

            # A linear map is its own derivative.
            value, slope = jvp(look, flat, flat)
            torch.testing.assert_close(slope, value, rtol=1e-12, atol=1e-12)
            if site < len(SITES):
                h = residual.read(state, site)
                state = residual.write(state, site, ys[site], Context(h, h))


@pytest.mark.parametrize("name", ["muddformer", "dca", "highway", "depth_swa"])
def test_unfrozen_routing_is_differentiated(name):
    residual, weights = trained(build(name)), branch_weights()

    def last(x):
        *_, state = states(residual, x, weights)
        return residual.close(state)

    x = normal(2, 3, WIDTH)
    free = jvp(last, (x,), (x,))[1]
    with frozen_routing():
        frozen = jvp(last, (x,), (x,))[1]
    assert (free - frozen).abs().max() > 1e-3
