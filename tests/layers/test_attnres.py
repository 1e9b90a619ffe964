"""The laws of Attention Residuals, operator and network, in float64."""

import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Site, depth_mix, depth_weights
from torch import Tensor
from torch.nn import functional as F

from .stacks import branch_weights, build, fill, normal, rms_norm, stack, states, trained

N, D = 4, 7
EPS = 1e-6
BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-13}  # some hundred roundings of float64 at unit scale
seeds = pytest.mark.parametrize("seed", range(3))


def sources(seed: int = 0) -> Tensor:
    """Four sources (4, 2, 3, D) of different sizes."""
    return normal(N, 2, 3, D, seed=seed) * torch.tensor([0.1, 1.0, 3.0, 1.0]).view(N, 1, 1, 1)


def query(seed: int = 0) -> Tensor:
    return normal(D, seed=100 + seed)


def keys(v: Tensor, eps: float = EPS) -> Tensor:
    return v * (v.square().mean(-1, keepdim=True) + eps).rsqrt()


# The operator.


@seeds
def test_a_zero_query_gives_the_mean(seed):
    v, zero = sources(seed), torch.zeros(D).double()
    torch.testing.assert_close(depth_weights(v, zero), torch.full((N, 2, 3, 1), 0.25).double())
    torch.testing.assert_close(depth_mix(v, zero), v.mean(0), **TOL)


def test_one_source_is_returned_as_it_is():
    v = sources()[:1]
    torch.testing.assert_close(depth_mix(list(v), 100 * query()), v[0], **BITWISE)
    torch.testing.assert_close(depth_weights(v, query()), torch.ones(1, 2, 3, 1).double())


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@seeds
def test_the_weights_lie_on_the_simplex(seed, scale):
    a = depth_weights(sources(seed), scale * query(seed))
    assert a.shape == (N, 2, 3, 1)
    assert (a >= 0).all()
    torch.testing.assert_close(a.sum(0), torch.ones(2, 3, 1).double(), **TOL)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@seeds
def test_the_mixture_is_no_longer_than_the_longest_source(seed, scale):
    v = sources(seed)
    assert (depth_mix(v, scale * query(seed)).norm(dim=-1) <= v.norm(dim=-1).amax(0) + 1e-13).all()


@seeds
def test_permuting_the_sources_permutes_the_weights_and_keeps_the_mixture(seed):
    v, q, order = sources(seed), query(seed), [2, 0, 3, 1]
    torch.testing.assert_close(depth_weights(v[order], q), depth_weights(v, q)[order], **TOL)
    torch.testing.assert_close(depth_mix(v[order], q), depth_mix(v, q), **TOL)


@seeds
def test_without_epsilon_the_size_of_a_source_moves_no_weight(seed):
    v, q = sources(seed), query(seed)
    factors = torch.tensor([1e-6, 3.0, 1.0, 1e6]).double().view(N, 1, 1, 1)
    torch.testing.assert_close(
        depth_weights(factors * v, q, eps=0.0), depth_weights(v, q, eps=0.0), **TOL
    )
    assert (depth_mix(factors * v, q, eps=0.0) - depth_mix(v, q, eps=0.0)).abs().max() > 1.0


def test_the_sign_of_a_source_matters():
    v, q = sources(), query()
    flipped = v * torch.tensor([1.0, -1.0, 1.0, 1.0]).view(N, 1, 1, 1)
    assert (depth_weights(flipped, q) - depth_weights(v, q)).abs().max() > 0.1


@seeds
def test_it_is_dot_product_attention_over_depth_with_rms_keys_and_scale_one(seed):
    v, q = sources(seed), query(seed)
    depth_last = v.permute(1, 2, 0, 3)
    expected = F.scaled_dot_product_attention(
        q.expand(2, 3, 1, D), keys(depth_last), depth_last, scale=1.0
    )
    torch.testing.assert_close(depth_mix(v, q), expected.squeeze(2), **TOL)


@seeds
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


@seeds
def test_a_logit_is_bounded_by_the_query_and_reaches_the_bound_along_it(seed):
    q = query(seed)
    v = torch.stack([torch.zeros(D).double(), *normal(50, D, seed=seed), 5 * q])
    a = depth_weights(v, q, eps=1e-300)  # the zero source has logit 0, so a_i / a_0 = exp(s_i)
    logits = (a.log() - a[0].log()).squeeze(-1)
    bound = q.norm() * math.sqrt(D)
    assert (logits.abs() <= bound * (1 + 1e-13)).all()
    torch.testing.assert_close(logits[-1], bound, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1])
@seeds
def test_the_gradients_have_the_closed_form(seed, eps):
    v, u, g = sources(seed).requires_grad_(), query(seed).requires_grad_(), normal(2, 3, D, seed=7)
    h = depth_mix(v, u, eps=eps)
    dv, du = torch.autograd.grad(h, [v, u], g)
    with torch.no_grad():
        a = depth_weights(v, u, eps=eps)
        r = (v.square().mean(-1, keepdim=True) + eps).rsqrt()
        s = r * (v * u).sum(-1, keepdim=True)
        d = a * ((g * v).sum(-1, keepdim=True) - (g * h).sum(-1, keepdim=True))
        expected_v = a * g + d * (r * u - s * r**2 / D * v)
        expected_u = (d * r * v).sum((0, 1, 2))
    torch.testing.assert_close(dv, expected_v, rtol=1e-11, atol=1e-12)  # r reaches 40 here
    torch.testing.assert_close(du, expected_u, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_the_gradient_is_the_gradient(channel_dim):
    v, u = normal(3, 2, 3, 4), normal(4, seed=1)
    if channel_dim == 1:
        v, u = v.mT.contiguous(), u[:, None]

    def mix(v, u):
        return depth_mix(list(v), u, channel_dim=channel_dim)

    assert torch.autograd.gradcheck(mix, [v.requires_grad_(), u.requires_grad_()])


def test_a_zero_query_is_no_saddle():
    u = torch.zeros(D).double().requires_grad_()
    (gradient,) = torch.autograd.grad(depth_mix(sources(), u), u, normal(2, 3, D))
    assert gradient.abs().max() > 0.1


def test_a_dead_source_changes_nothing_and_a_zero_source_does():
    v, q = sources(), query()
    dead = torch.zeros(2, 1, 1, dtype=torch.bool)
    more = torch.cat([v, normal(1, 2, 3, D, seed=5)])
    torch.testing.assert_close(
        depth_mix(more, q, alive=[None] * N + [dead]), depth_mix(v, q), **TOL
    )
    assert depth_weights(more, q, alive=[None] * N + [dead])[-1].abs().max() == 0
    with_zero = torch.cat([v, torch.zeros(1, 2, 3, D).double()])
    assert (depth_mix(with_zero, q) - depth_mix(v, q)).abs().max() > 0.01


def test_a_source_may_be_dead_for_one_sample_only():
    v, q = sources(), query()
    mask = torch.tensor([True, False]).view(2, 1, 1)
    mixed = depth_mix(v, q, alive=[None, None, mask, None])
    torch.testing.assert_close(mixed[0], depth_mix(v, q)[0], **TOL)
    torch.testing.assert_close(mixed[1], depth_mix(v[[0, 1, 3]], q)[1], **TOL)


def test_a_dead_source_leaves_no_trace_in_the_gradients():
    v, q = sources().requires_grad_(), query().requires_grad_()
    dead = torch.zeros(2, 1, 1, dtype=torch.bool)
    dv, dq = torch.autograd.grad(
        depth_mix(v, q, alive=[None, None, dead, None]), [v, q], normal(2, 3, D)
    )
    assert dv[2].abs().max() == 0
    (expected,) = torch.autograd.grad(depth_mix(v[[0, 1, 3]], q), q, normal(2, 3, D))
    torch.testing.assert_close(dq, expected, **TOL)


def test_a_common_shift_moves_the_mixture_by_itself_only_at_a_zero_query():
    v, q, t = sources(), query(), normal(D, seed=9)
    zero = torch.zeros_like(q)
    torch.testing.assert_close(depth_mix(v + t, zero), depth_mix(v, zero) + t, **TOL)
    assert (depth_mix(v + t, q) - depth_mix(v, q) - t).abs().max() > 0.01


def test_a_token_mixes_only_its_own_history():
    v, q = sources(), query()
    changed = v.clone()
    changed[:, 0, 1] += 1.0
    before, after = depth_mix(v, q), depth_mix(changed, q)
    assert not torch.equal(after[0, 1], before[0, 1])
    after[0, 1] = before[0, 1]
    torch.testing.assert_close(after, before, **BITWISE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_out_in_float32_and_rounded_once(dtype):
    v, q = sources().to(dtype), query().to(dtype)
    assert depth_weights(v, q).dtype == torch.float32
    mixed = depth_mix(v, q)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed, depth_mix(v.float(), q.float()).to(dtype), **BITWISE)


def test_a_large_half_precision_source_does_not_overflow():
    v = (1000 * torch.ones(2, 3, D)).half()  # its square is beyond float16
    torch.testing.assert_close(depth_weights(v, query().half()), torch.full((2, 3, 1), 0.5))
    torch.testing.assert_close(depth_mix(v, query().half()), v[0], **BITWISE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_types_keep_their_own(dtype):
    v, q = sources().to(dtype), query().to(dtype)
    assert depth_weights(v, q).dtype == dtype
    assert depth_mix(v, q).dtype == dtype


# The network: X, WEIGHTS and SITES of seven branches, which no S from 2 to 6 divides.

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
        logits = torch.einsum(
            "d,n...d->n...", residual.query[site], residual.gain[site] * keys(values)
        )
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
