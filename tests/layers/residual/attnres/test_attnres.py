"""The laws of Attention Residuals over a network, full and in blocks, in float64."""

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Site, depth_mix
from torch import Tensor

from ..stacks import branch_weights, build, fill, normal, rms_norm, stack, states, trained

BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-13}  # some hundred roundings of float64 at unit scale

# X, WEIGHTS and SITES of seven branches, which no S from 2 to 6 divides.
SITES = [Site("mlp", i) for i in range(7)]
X, WEIGHTS = normal(2, 3, 5), branch_weights(7)
SIZES = [1, 2, 3, 4, 5, 6, 7, 100]
every_size = pytest.mark.parametrize("size", SIZES)


def block(size: int, **options):
    return build("block_attnres", sites=SITES, block_size=size, **options)


def test_blocks_of_one_branch_are_the_full_form_bit_for_bit():
    full, blocks = trained(build("attnres", sites=SITES)), trained(block(1))
    torch.testing.assert_close(stack(blocks, X, WEIGHTS), stack(full, X, WEIGHTS), **BITWISE)


@every_size
def test_a_site_sees_the_finished_blocks_and_the_open_sum(size):
    counts = [len(state.values) for state in states(block(size), X, WEIGHTS)]
    blocks = -(-len(SITES) // size)
    # Branch i (from 0) of block n (from 1) reads n sources if it is the first, else n + 1.
    expected = [i // size + 1 + (i % size > 0) for i in range(len(SITES))]
    assert counts == [*expected, blocks + 1]


@every_size
def test_the_sources_are_sums_of_branch_outputs_block_by_block(size):
    ys = normal(len(SITES), 2, 3, 5, seed=3)
    values = fill(trained(block(size)), X, ys).values
    torch.testing.assert_close(values[0], X, **BITWISE)
    for value, chunk in zip(values[1:], ys.split(size), strict=True):
        torch.testing.assert_close(value, chunk.sum(0), **TOL)


def listing(residual, x: Tensor, weights: Tensor, block_size: int) -> Tensor:
    """The paper's listing, layer by layer: 0-based, two branches a layer, block_size even."""

    def mix(blocks, partial, site):
        values = torch.stack([*blocks, partial])
        keys = values * (values.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        logits = torch.einsum("d,n...d->n...", residual.query[site], residual.gain[site] * keys)
        return torch.einsum("n...,n...d->...d", logits.softmax(0), values)

    blocks, partial = [], x
    for layer in range(len(weights) // 2):
        h = mix(blocks, partial, 2 * layer)
        if layer % (block_size // 2) == 0:
            blocks, partial = [*blocks, partial], None
        y = (rms_norm(h) @ weights[2 * layer]).tanh()
        partial = y if partial is None else partial + y
        h = mix(blocks, partial, 2 * layer + 1)
        partial = partial + (rms_norm(h) @ weights[2 * layer + 1]).tanh()
    return mix(blocks, partial, len(weights))


@pytest.mark.parametrize("size", [2, 4, 6, 8, 12, 14])
def test_the_network_is_the_papers_listing(size):
    sites = [Site(kind, i) for i in range(6) for kind in ("attention", "mlp")]
    weights = branch_weights(12)
    residual = trained(build("block_attnres", sites=sites, block_size=size))
    # Some hundred roundings a mix, through thirteen mixes.
    torch.testing.assert_close(
        stack(residual, X, weights), listing(residual, X, weights, size), rtol=0.0, atol=1e-12
    )


def last_normed(residual, norm):
    return rms_norm(stack(residual, X, WEIGHTS, norm))


@every_size
def test_zero_queries_equal_add_only_because_of_the_pre_norm(size):
    add = build("add", sites=SITES)
    torch.testing.assert_close(
        last_normed(block(size), rms_norm), last_normed(add, rms_norm), rtol=0.0, atol=1e-12
    )
    without = last_normed(block(size), torch.clone) - last_normed(add, torch.clone)
    assert without.abs().max() > 0.05


def test_one_block_with_trained_queries_is_not_the_plain_residual():
    add, one = build("add", sites=SITES), trained(block(7))
    assert (last_normed(one, rms_norm) - last_normed(add, rms_norm)).abs().max() > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_gain_on_the_keys_is_a_gain_on_the_query(seed):
    residual = trained(build("attnres"), seed)
    factor = normal(*residual.query.shape, seed=seed).exp()
    x, weights = normal(2, 3, 5), branch_weights()
    before = stack(residual, x, weights)
    with torch.no_grad():
        residual.query.mul_(factor)
        residual.gain.div_(factor)
    # Some hundred roundings an entry, through six branches.
    torch.testing.assert_close(stack(residual, x, weights), before, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["attnres", "block_attnres"])
@pytest.mark.parametrize(("key_gain", "tables"), [(True, 2), (False, 1)])
def test_it_owns_one_query_and_one_gain_per_branch_and_for_the_readout(name, key_gain, tables):
    residual = build(name, sites=SITES, key_gain=key_gain)
    assert sum(p.numel() for p in residual.parameters()) == tables * (len(SITES) + 1) * 5
    assert residual.query.abs().max() == 0
    assert (
        decay_exclusions(residual) == {"query", "gain"} & dict(residual.named_parameters()).keys()
    )
    if key_gain:
        assert residual.gain.eq(1).all()


@pytest.mark.parametrize("name", ["attnres", "block_attnres"])
def test_resetting_returns_to_the_start(name):
    residual = trained(build(name))
    residual.reset_parameters()
    for ours, fresh in zip(residual.parameters(), build(name).parameters(), strict=True):
        assert torch.equal(ours, fresh)


# Stochastic depth.


def write(residual, state, site, y, keep):
    h = residual.read(state, site)
    return residual.write(state, site, y, Context(h, h, torch.tensor(keep).double().view(-1, 1, 1)))


def test_a_dropped_branch_leaves_the_softmax():
    residual = trained(build("attnres", sites=SITES[:3]))
    shorter = trained(build("attnres", sites=SITES[:3]))
    ys = normal(3, 2, 3, 5, seed=4)
    state, without = residual.open(X), shorter.open(X)
    for site, keep in enumerate([[2.0, 2.0], [0.0, 0.0], [2.0, 2.0]]):
        state = write(residual, state, site, ys[site], keep)
    without = type(without)((X, 2 * ys[0], 2 * ys[2]), (None, None, None))
    torch.testing.assert_close(residual.close(state), shorter.close(without), **TOL)


def test_a_block_leaves_the_softmax_when_all_its_branches_are_dropped():
    residual = trained(build("block_attnres", sites=SITES[:4], block_size=2))
    ys = normal(4, 2, 3, 5, seed=4)
    state = residual.open(X)
    # Sample 0 loses the first block, sample 1 one branch of each.
    for site, keep in enumerate([[0.0, 2.0], [0.0, 0.0], [2.0, 0.0], [2.0, 2.0]]):
        state = write(residual, state, site, ys[site], keep)
    closed, u = residual.close(state), (residual.query * residual.gain)[-1]
    first = depth_mix([X[0], 2 * (ys[2] + ys[3])[0]], u)
    second = depth_mix([X[1], 2 * ys[0, 1], 2 * ys[3, 1]], u)
    torch.testing.assert_close(closed, torch.stack([first, second]), **TOL)


def test_a_network_that_drops_everything_returns_the_embedding():
    residual = trained(build("attnres"))
    keep = torch.zeros(6, 2, 1, 1).double()
    torch.testing.assert_close(stack(residual, X, branch_weights(), keep=keep), X, **TOL)


# Block sizes.


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 4),
        ({"block_size": 3}, 3),
        ({"num_blocks": 1}, 10),
        ({"num_blocks": 3}, 4),
        ({"num_blocks": 5}, 2),
        ({"num_blocks": 10}, 1),
        ({"num_blocks": 99}, 1),
        ({"block_layers": 1}, 2),
        ({"block_layers": 3}, 6),
    ],
)
def test_any_of_three_sizes_gives_the_branches_of_a_block(options, size):
    sites = [Site(kind, i) for i in range(5) for kind in ("attention", "mlp")]
    assert build("block_attnres", sites=sites, **options).block_size == size


def test_a_layer_of_one_branch_counts_as_one():
    assert build("block_attnres", sites=SITES, block_layers=3).block_size == 3


@pytest.mark.parametrize("name", ["block_size", "num_blocks", "block_layers"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused_by_name(name, size):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {size}"):
        build("block_attnres", **{name: size})


def test_two_sizes_at_once_are_refused():
    with pytest.raises(ValueError, match="give one of block_size, num_blocks, block_layers"):
        build("block_attnres", block_size=2, num_blocks=3)
