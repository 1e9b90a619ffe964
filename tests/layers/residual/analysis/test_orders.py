"""Orders of a stack by the number of branches on a path, and by powers of their factor."""

import itertools
import math

import pytest
import torch
from archzoo.layers.residual import (
    linear_orders,
    mobius_orders,
    mobius_term,
    taylor_orders,
)
from archzoo.layers.residual.analysis.orders import tower

from ..stacks import WIDTH, branch_weights, build, normal, rms_norm, stack

EXACT = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
DEPTH = 6
ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda x: x}


def branches(activation="tanh", depth=DEPTH, scale=1.0, norm=rms_norm, seed=1):
    act = ACTIVATIONS[activation]
    weights = branch_weights(depth, seed=seed)
    return [lambda x, w=w: scale * act(norm(x) @ w) for w in weights]


def linear(depth=DEPTH, scale=1.0, seed=1):
    return branches("identity", depth, scale, lambda x: x, seed)


def binomials(n, last):
    return torch.tensor([math.comb(n, k) for k in range(last + 1)], dtype=torch.float64)


# Möbius orders.


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2, 6, 9])
def test_the_orders_sum_to_the_stack_whatever_the_branches(activation, depth):
    x, functions = normal(2, 3, WIDTH), branches(activation, depth)
    found = mobius_orders(functions, x)
    assert found.terms.shape == (depth + 1, 2, 3, WIDTH)
    torch.testing.assert_close(found.output, tower(functions, x), rtol=0.0, atol=0.0)
    torch.testing.assert_close(found.terms.sum(0), found.output, **EXACT)
    assert found.errors[-1] < 1e-12 < found.errors[0]


def test_a_tower_is_the_stack_of_the_plain_residual():
    x, weights = normal(2, 3, WIDTH), branch_weights()
    torch.testing.assert_close(
        tower(branches(), x), stack(build("add"), x, weights), rtol=0.0, atol=0.0
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_orders_are_those_of_the_definition(activation):
    x, functions = normal(2, WIDTH), branches(activation)
    subsets = [s for k in range(DEPTH + 1) for s in itertools.combinations(range(DEPTH), k)]
    stacks = {s: tower(functions, x, s) for s in subsets}
    found = mobius_orders(functions, x).terms
    sums = [sum(stacks[s] for s in subsets if len(s) == j) for j in range(DEPTH + 1)]
    for k in range(DEPTH + 1):
        terms = []
        for s in subsets:
            if len(s) == k:
                inside = [r for r in subsets if set(r) <= set(s)]
                terms.append(sum((-1) ** (k - len(r)) * stacks[r] for r in inside))
                torch.testing.assert_close(mobius_term(functions, x, s), terms[-1], **EXACT)
        torch.testing.assert_close(found[k], sum(terms), **EXACT)
        # And by the sums over subsets of one size.
        by_size = [(-1) ** (k - j) * math.comb(DEPTH - j, k - j) * sums[j] for j in range(k + 1)]
        torch.testing.assert_close(found[k], sum(by_size), **EXACT)


def test_order_zero_is_the_input_and_orders_zero_and_one_the_parallel_network():
    x, weights = normal(2, 3, WIDTH), branch_weights()
    found = mobius_orders(branches(), x)
    torch.testing.assert_close(found.terms[0], x, rtol=0.0, atol=0.0)
    torch.testing.assert_close(
        found.partial_sums[1], stack(build("parallel", group=None), x, weights), **EXACT
    )


def test_fewer_orders_are_the_first_of_all():
    x, functions = normal(2, WIDTH), branches()
    every = mobius_orders(functions, x).terms
    for last in range(DEPTH + 1):
        found = mobius_orders(functions, x, orders=last)
        torch.testing.assert_close(found.terms, every[: last + 1], rtol=0.0, atol=0.0)


def test_a_branch_is_called_once_for_each_subset_that_it_ends():
    calls = []
    functions = [lambda x, i=i: calls.append(i) or x.tanh() for i in range(DEPTH)]
    for last in range(1, DEPTH + 1):
        calls.clear()
        mobius_orders(functions, normal(2), orders=last)
        # What is beyond is the stack itself, for the output.
        assert len(calls) == sum(math.comb(DEPTH, k) for k in range(1, last + 1)) + DEPTH


@pytest.mark.parametrize("total", [0.3, 1.0, -0.5])
def test_commuting_scalar_branches_give_the_binomial_terms(total):
    depth, x = 8, normal(3, WIDTH)
    weight = total / depth
    functions = [lambda h: weight * h] * depth
    expected = torch.stack([math.comb(depth, k) * weight**k * x for k in range(depth + 1)])
    for found in (mobius_orders(functions, x), linear_orders(functions, x)):
        torch.testing.assert_close(found.terms, expected, **EXACT)
        torch.testing.assert_close(found.output, (1 + weight) ** depth * x, **EXACT)
        # At λ = 1/L the sum tends to e^w x, with an error of about w²/2L.
        limit = math.exp(total) * x
        assert (found.output - limit).norm() <= total**2 / depth * limit.norm()


@pytest.mark.parametrize("scale", [1.0, DEPTH**-0.5, 1 / DEPTH])
def test_orders_of_linear_branches_are_bounded_by_binomial_terms(scale):
    x, functions = normal(WIDTH), linear(scale=scale)
    weight = max(torch.linalg.matrix_norm(f(torch.eye(WIDTH).double()), 2) for f in functions)
    norms = mobius_orders(functions, x).norms
    powers = weight ** torch.arange(DEPTH + 1)
    assert (norms <= binomials(DEPTH, DEPTH) * powers * x.norm() * (1 + 1e-12)).all()
    factorials = torch.tensor([math.factorial(k) for k in range(DEPTH + 1)])
    assert (norms <= (DEPTH * weight) ** torch.arange(DEPTH + 1) / factorials * x.norm()).all()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_energies_of_independent_random_branches_follow_the_binomial_law(exponent):
    depth, width, trials, std = 6, 16, 400, 0.8
    scale, x = depth**-exponent, normal(width)
    g = torch.Generator().manual_seed(3)
    energies = []
    for _ in range(trials):
        weights = torch.randn(depth, width, width, generator=g, dtype=torch.float64)
        weights *= scale * std * width**-0.5
        found = linear_orders([lambda h, w=w: h @ w for w in weights], x)
        energies.append(torch.cat([found.norms, found.output.norm()[None]]).square())
    energies = torch.stack(energies) / x.square().sum()
    mean, error = energies.mean(0), energies.std(0) / trials**0.5
    unit = (scale * std) ** 2
    law = binomials(depth, depth) * unit ** torch.arange(depth + 1)
    # Four standard errors of the mean, for eight numbers; order 0 is exact.
    assert ((mean[:-1] - law).abs() <= 4 * error[:-1] + 1e-12).all()
    assert (mean[-1] - (1 + unit) ** depth).abs() <= 4 * error[-1]


# Powers of a factor.


def test_low_orders_in_the_factor_are_derivatives_of_branches():
    x, functions = normal(WIDTH), branches()
    found = taylor_orders(functions, x, orders=2).terms
    torch.testing.assert_close(found[0], x, rtol=0.0, atol=0.0)
    torch.testing.assert_close(found[1], sum(f(x) for f in functions), **EXACT)
    second = sum(
        torch.func.jvp(functions[j], (x,), (functions[i](x),))[1]
        for i, j in itertools.combinations(range(DEPTH), 2)
    )
    torch.testing.assert_close(found[2], second, **EXACT)


@pytest.mark.parametrize("orders", [0, 1, 2, 3, 4])
def test_the_remainder_falls_as_the_next_power_of_the_factor(orders):
    x, functions = normal(WIDTH), branches(depth=4)
    terms = taylor_orders(functions, x, orders=orders).terms
    powers = torch.arange(orders + 1).double()

    def remainder(factor):
        exact = tower([lambda h, f=f: factor * f(h) for f in functions], x)
        return (exact - torch.einsum("k,kd->d", factor**powers, terms)).norm()

    # Halving the factor: the next term but one changes the exponent by less than 0.1.
    slope = torch.log2(remainder(0.01) / remainder(0.005))
    assert slope.item() == pytest.approx(orders + 1, abs=0.1)


def test_the_terms_at_a_factor_are_those_of_scaled_branches():
    x, factor = normal(WIDTH), 0.3
    plain = taylor_orders(branches(), x, orders=3).terms
    scaled = taylor_orders(branches(scale=factor), x, orders=3).terms
    powers = factor ** torch.arange(4).double()
    torch.testing.assert_close(scaled, powers[:, None] * plain, **EXACT)


def test_the_two_countings_agree_to_leading_order_only():
    x, gaps = normal(WIDTH), []
    for factor in (0.02, 0.01):
        functions = branches(scale=factor, depth=4)
        subset = mobius_orders(functions, x, orders=2).terms
        taylor = taylor_orders(functions, x, orders=2).terms
        gaps.append((subset - taylor).norm(dim=-1))
        assert gaps[-1][1] < 1e-13  # order 1 is the same
        assert 0 < gaps[-1][2] < 0.2 * subset[2].norm()
    assert torch.log2(gaps[0][2] / gaps[1][2]).item() == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_for_linear_branches_all_countings_agree(scale):
    x, functions = normal(3, WIDTH), linear(scale=scale)
    subset = mobius_orders(functions, x).terms
    torch.testing.assert_close(linear_orders(functions, x).terms, subset, **EXACT)
    torch.testing.assert_close(linear_orders(functions, x, orders=2).terms, subset[:3], **EXACT)
    torch.testing.assert_close(taylor_orders(functions, x, orders=4).terms, subset[:5], **EXACT)
    products = sum(
        x @ branch_weights()[i] @ branch_weights()[j] * scale**2
        for i, j in itertools.combinations(range(DEPTH), 2)
    )
    torch.testing.assert_close(subset[2], products, **EXACT)


def test_branches_frozen_around_a_point_are_linear():
    at, x = normal(WIDTH, seed=5), normal(WIDTH)
    frozen = [lambda v, f=f: torch.func.jvp(f, (at,), (v,))[1] for f in branches()]
    found = linear_orders(frozen, x)
    torch.testing.assert_close(found.terms, mobius_orders(frozen, x).terms, **EXACT)
    torch.testing.assert_close(found.terms.sum(0), found.output, **EXACT)


def test_a_branch_that_ignores_the_stream_has_no_higher_terms():
    x, constant = normal(WIDTH), normal(WIDTH, seed=1)
    functions = [torch.tanh, lambda h: constant]
    found = taylor_orders(functions, x, orders=3).terms
    torch.testing.assert_close(found[1], x.tanh() + constant, **EXACT)
    assert not found[2:].any()
    torch.testing.assert_close(found[2:3], mobius_orders(functions, x).terms[2:], **EXACT)


# Samples.


def test_few_subsets_are_summed_in_full():
    x, functions = normal(2, WIDTH), branches()
    found = mobius_orders(functions, x, orders=4, samples=20)
    assert not found.standard_errors.any()
    torch.testing.assert_close(found.terms, mobius_orders(functions, x, orders=4).terms, **EXACT)


@pytest.mark.long
def test_a_sampled_order_is_unbiased_and_knows_its_error():
    x, functions = normal(2, WIDTH), branches(depth=8)
    exact = mobius_orders(functions, x, orders=3).terms
    g = torch.Generator().manual_seed(0)
    runs = [mobius_orders(functions, x, orders=3, samples=30, generator=g) for _ in range(200)]
    terms = torch.stack([run.terms for run in runs])
    claimed = torch.stack([run.standard_errors for run in runs])
    assert not claimed[:, :3].any() and (claimed[:, 3] > 0).all()  # 28 pairs, 56 triples
    torch.testing.assert_close(terms[0, :3], exact[:3], **EXACT)
    gaps = (terms[:, 3] - exact[3]).flatten(1)
    mean_square = claimed[:, 3].square().mean()
    # The mean over 200 runs has a 200th of the variance: three of its standard errors.
    assert gaps.mean(0).norm() <= 3 * (mean_square / 200).sqrt()
    # The claimed variance is that of the runs; ten numbers in 200 runs give it to some 5 percent.
    assert gaps.square().sum(1).mean().item() == pytest.approx(mean_square.item(), rel=0.15)
    assert (gaps.norm(dim=1) <= 4 * claimed[:, 3]).all()


def test_samples_follow_the_generator():
    x, functions = normal(2, WIDTH), branches(depth=8)

    def draw(seed):
        g = torch.Generator().manual_seed(seed)
        return mobius_orders(functions, x, orders=4, samples=10, generator=g).terms

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_many_branches_are_within_reach_by_samples():
    depth, x = 100, normal(WIDTH)
    functions = linear(depth, scale=0.1 / depth)
    g = torch.Generator().manual_seed(0)
    found = mobius_orders(functions, x, orders=3, samples=200, generator=g)
    exact = linear_orders(functions, x, orders=3).terms
    gaps = (found.terms - exact).norm(dim=-1)
    assert (gaps <= 4 * found.standard_errors + 1e-13).all()


# The report.


def test_the_report_is_what_it_says():
    x, functions = normal(2, 3, WIDTH), branches()
    found = mobius_orders(functions, x)
    flat, out = found.terms.flatten(1), found.output.flatten()
    for k in range(DEPTH + 1):
        assert found.norms[k].item() == pytest.approx(flat[k].norm().item(), rel=1e-14)
        assert found.ratios[k].item() == pytest.approx((flat[k].norm() / flat[1].norm()).item())
        cosine = torch.cosine_similarity(flat[k], out, dim=0)
        assert found.cosines[k].item() == pytest.approx(cosine.item(), abs=1e-12)
        error = (flat[: k + 1].sum(0) - out).norm() / out.norm()
        assert found.errors[k].item() == pytest.approx(error.item(), abs=1e-12)


def test_an_order_of_zero_has_no_direction():
    found = mobius_orders([torch.zeros_like] * 3, normal(WIDTH))
    assert found.cosines.tolist() == [pytest.approx(1.0), 0.0, 0.0, 0.0]
    assert not found.errors.any()


# Refusals.


def test_too_many_calls_are_refused_with_a_way_out():
    functions, x = [torch.tanh] * 20, normal(2)
    with pytest.raises(
        ValueError, match="orders=20 of 20 branches need 1,048,575 calls.*fewer orders, or samples"
    ):
        mobius_orders(functions, x)
    with pytest.raises(ValueError, match="from samples=500 need .*fewer orders, or fewer samples"):
        mobius_orders(functions, x, samples=500)
    mobius_orders(functions, x, orders=2)


@pytest.mark.parametrize("orders", [-1, 4])
@pytest.mark.parametrize("expand", [mobius_orders, linear_orders])
def test_orders_out_of_range_are_refused(expand, orders):
    with pytest.raises(ValueError, match=rf"orders must lie in 0, …, 3 .*, got {orders}"):
        expand([torch.tanh] * 3, normal(2), orders=orders)


def test_other_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="branches must hold at least one, got none"):
        mobius_orders([], normal(2))
    with pytest.raises(ValueError, match="samples must be at least 2 .*, got 1"):
        mobius_orders([torch.tanh], normal(2), samples=1)
    with pytest.raises(ValueError, match="orders must be at least 0, got -1"):
        taylor_orders([torch.tanh], normal(2), orders=-1)


@pytest.mark.parametrize("branch", [torch.relu, torch.tanh, lambda x: 2 * x + 1, rms_norm])
def test_a_branch_that_is_not_linear_is_refused_by_its_index(branch):
    with pytest.raises(ValueError, match=r"branches\[1\] is not linear"):
        linear_orders([torch.neg, branch], normal(5))
