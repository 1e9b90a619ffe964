"""Parallel branches read one base; how far that is from the sequential stack."""

import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Add, Context, Parallel, Scaled, as_parallel
from torch.func import jacrev

from .stacks import SITES, WIDTH, branch_weights, build, fill, normal, rms_norm, stack, trained

BITWISE = {"rtol": 0.0, "atol": 0.0}
EXACT = {"rtol": 0.0, "atol": 1e-13}  # some ten roundings of float64 at unit scale
DEPTH = len(SITES)


def branches(weights):
    return [lambda x, w=w: (rms_norm(x) @ w).tanh() for w in weights]


@pytest.mark.parametrize("norm", [rms_norm, lambda x: x])
def test_groups_of_one_are_add_bit_for_bit(norm):
    x, weights = normal(2, 3, WIDTH), branch_weights()
    torch.testing.assert_close(
        stack(build("parallel", group=1), x, weights, norm),
        stack(build("add"), x, weights, norm),
        **BITWISE,
    )


@pytest.mark.parametrize("options", [{"exponent": 0.5}, {"learned": True, "per_channel": True}])
def test_groups_of_one_are_scaled_bit_for_bit(options):
    x, weights = normal(2, 3, WIDTH), branch_weights()
    scaled = trained(build("scaled", **options))
    ours = trained(build("parallel", group=1, **{"exponent": 0.5, **options}))
    torch.testing.assert_close(stack(ours, x, weights), stack(scaled, x, weights), **BITWISE)


@pytest.mark.parametrize("group", [None, DEPTH, 100])
def test_one_group_of_all_is_one_broad_layer(group):
    x, weights = normal(2, 3, WIDTH), branch_weights()
    expected = x + sum(f(x) for f in branches(weights))
    torch.testing.assert_close(stack(build("parallel", group=group), x, weights), expected, **EXACT)


def test_the_order_of_branches_in_a_group_does_not_matter():
    x, weights = normal(2, 3, WIDTH), branch_weights()
    residual = build("parallel", group=3)
    plain = stack(residual, x, weights)
    torch.testing.assert_close(stack(residual, x, weights[[2, 0, 1, 4, 5, 3]]), plain, **EXACT)
    across = stack(residual, x, weights[[3, 1, 2, 0, 4, 5]])
    assert (across - plain).abs().max() > 1e-3


def test_the_default_pairs_attention_with_mlp():
    groups = build("parallel").groups()
    assert [[SITES[i].kind for i in group] for group in groups] == [["attention", "mlp"]] * 3
    assert all(len({SITES[i].block for i in group}) == 1 for group in groups)


@pytest.mark.parametrize(
    ("group", "sizes"), [(1, [1] * 6), (2, [2] * 3), (4, [4, 2]), (None, [6]), (100, [6])]
)
def test_groups_cover_all_sites_and_the_last_may_be_short(group, sizes):
    groups = build("parallel", group=group).groups()
    assert [len(group) for group in groups] == sizes
    assert [site for group in groups for site in group] == list(range(DEPTH))


def test_the_number_of_parameters_does_not_depend_on_the_group():
    for options, count in [({}, 0), ({"learned": True}, 6), ({"learned": True, "shared": True}, 3)]:
        for group in (1, 2, None):
            residual = build("parallel", group=group, **options)
            assert sum(p.numel() for p in residual.parameters()) == count


def test_only_what_equals_add_says_so():
    assert build("parallel", group=1).equals_prenorm_at_init
    assert build("parallel", group=None, sites=SITES[:1]).equals_prenorm_at_init
    assert not build("parallel", group=1, exponent=0.5).equals_prenorm_at_init
    assert not build("parallel", group=None).equals_prenorm_at_init


# How far the parallel form is from the sequential one.


def of_norm(matrices, norm):
    return norm * matrices / torch.linalg.matrix_norm(matrices, 2)[:, None, None]


@pytest.mark.parametrize("norm", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("aligned", [False, True])
def test_linear_branches_differ_by_at_most_the_rest_of_the_exponential(norm, aligned):
    weights = of_norm(branch_weights(DEPTH), norm)
    if aligned:
        weights = norm * torch.eye(WIDTH).double().expand(DEPTH, -1, -1)
    x = normal(20, WIDTH)
    sequential, parallel = x, x + sum(x @ w for w in weights)
    for w in weights:
        sequential = sequential + sequential @ w
    gap = (sequential - parallel).norm(dim=-1)
    bound = (math.exp(DEPTH * norm) - 1 - DEPTH * norm) * x.norm(dim=-1)
    assert (gap <= bound).all()
    if aligned:  # (1 + w)^L instead of e^{Lw}: the bound is not loose
        exact = ((1 + norm) ** DEPTH - 1 - DEPTH * norm) * x.norm(dim=-1)
        torch.testing.assert_close(gap, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_any_branches_differ_by_at_most_what_their_size_and_slope_allow(size, exponent):
    weights, x = of_norm(branch_weights(DEPTH), size), normal(20, WIDTH)
    functions = [lambda h, w=w: (h @ w).tanh() for w in weights]
    scale = DEPTH**-exponent
    slope = scale * size  # tanh is 1-Lipschitz
    most = scale * torch.stack([f(x).norm(dim=-1) for f in functions]).amax(0)
    sequential = stack(build("scaled", exponent=exponent), x, weights, lambda h: h)
    parallel = stack(build("parallel", group=None, exponent=exponent), x, weights, lambda h: h)
    bound = most * (((1 + slope) ** DEPTH - 1) / slope - DEPTH)
    assert ((sequential - parallel).norm(dim=-1) <= bound).all()


def test_the_derivative_of_one_group_is_one_plus_the_sum_of_the_branches_derivatives():
    x, weights = normal(WIDTH), branch_weights()
    ours = jacrev(lambda h: stack(build("parallel", group=None), h, weights))(x)
    expected = torch.eye(WIDTH).double() + sum(jacrev(f)(x) for f in branches(weights))
    torch.testing.assert_close(ours, expected, **EXACT)


# Conversion.


@pytest.mark.parametrize("name", ["add", "scaled", "skip_init", "rezero", "layer_scale"])
def test_the_parallel_form_keeps_lambda_and_leads_back(name):
    residual = trained(build(name))
    x, weights = normal(2, 3, WIDTH), branch_weights()
    once = as_parallel(residual)
    assert once.group == DEPTH
    ys = normal(DEPTH, 2, 3, WIDTH, seed=1)
    torch.testing.assert_close(
        once.close(fill(once, x, ys)), residual.close(fill(residual, x, ys)), **BITWISE
    )
    back = as_parallel(once, 1)
    torch.testing.assert_close(stack(back, x, weights), stack(residual, x, weights), **BITWISE)
    assert list(map(id, back.parameters())) == list(map(id, residual.parameters()))
    assert decay_exclusions(back) == decay_exclusions(residual)
    assert back.equals_prenorm_at_init == (name == "add")


@pytest.mark.parametrize("name", ["attnres", "deepnorm", "highway"])
def test_another_residual_is_refused_by_name(name):
    residual = build(name)
    with pytest.raises(ValueError, match=f"^{type(residual).__name__} is not additive: only Add"):
        as_parallel(residual)


def test_a_subclass_that_may_write_otherwise_is_refused():
    class Twice(Add):
        def write(self, state, site, y, context):
            return super().write(state, site, 2 * y, context)

    with pytest.raises(ValueError, match="Twice is not additive"):
        as_parallel(Twice(WIDTH, SITES))


def test_mode_and_sizes_are_kept():
    made = as_parallel(Scaled(WIDTH, SITES, channel_dim=1).eval(), 2)
    assert (made.width, made.sites, made.channel_dim) == (WIDTH, tuple(SITES), 1)
    assert not made.training
    assert "group=2, scale=0.4082" in repr(made)


def test_a_dropped_branch_leaves_the_sum_and_the_base():
    x, y = normal(2, WIDTH), normal(2, WIDTH, seed=1)
    residual = build("parallel")
    keep = torch.tensor([[0.0], [2.0]]).double()
    base, acc = residual.write(residual.open(x), 0, y, Context(x, x, keep))
    assert base is x
    torch.testing.assert_close(acc, torch.stack([x[0], x[1] + 2 * y[1]]), **BITWISE)


@pytest.mark.parametrize("group", [0, -1])
def test_a_group_below_one_is_refused(group):
    with pytest.raises(ValueError, match=f"group must be at least 1 or None, got {group}"):
        build("parallel", group=group)
    with pytest.raises(ValueError, match=f"group must be at least 1 or None, got {group}"):
        as_parallel(build("add"), group)


def test_other_bad_arguments_are_refused_as_by_scaled():
    with pytest.raises(ValueError, match="exponent must be at least 0, got -1"):
        Parallel(WIDTH, SITES, exponent=-1)
    with pytest.raises(ValueError, match="per_channel and shared need learned=True"):
        Parallel(WIDTH, SITES, shared=True)
