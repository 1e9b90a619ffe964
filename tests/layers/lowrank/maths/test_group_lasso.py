"""Group lasso over components: values against a double loop, sub-gradients, the exact prox."""

import pytest
import torch
from archzoo.layers.lowrank.maths.group_lasso import (
    flat_group_lasso,
    hierarchical_group_lasso,
    prox_hierarchical,
    prox_scales,
)
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def balanced(rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    p, s, q = torch.linalg.svd(draw(rows, columns), full_matrices=False)
    return p * s.sqrt(), s.sqrt()[:, None] * q, s


@pytest.mark.parametrize("groups", [(), (3,)])
def test_the_value_is_that_of_a_double_loop_over_suffixes(groups):
    left, right = draw(*groups, 7, 4), draw(*groups, 4, 5, seed=1)
    expected = sum(left[..., j:].norm() + right[..., j:, :].norm() for j in range(4))
    torch.testing.assert_close(hierarchical_group_lasso(left, right), expected)
    expected = sum(left[..., j].norm() + right[..., j, :].norm() for j in range(4))
    torch.testing.assert_close(flat_group_lasso(left, right), expected)


@pytest.mark.parametrize("lasso", [hierarchical_group_lasso, flat_group_lasso])
def test_the_gradient_is_that_of_differences(lasso):
    left, right = draw(4, 3).requires_grad_(), draw(3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lasso, (left, right))


@pytest.mark.parametrize("lasso", [hierarchical_group_lasso, flat_group_lasso])
@pytest.mark.parametrize("kept", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_suffix_of_exact_zeros_has_a_finite_gradient_and_stays(lasso, kept, dtype):
    left, right = draw(6, 4).to(dtype), draw(4, 5, seed=1).to(dtype)
    left[:, kept:], right[kept:] = 0, 0
    left.requires_grad_(), right.requires_grad_()
    lasso(left, right).backward()
    assert left.grad is not None and right.grad is not None
    assert torch.isfinite(left.grad).all() and torch.isfinite(right.grad).all()
    assert not left.grad[:, kept:].any() and not right.grad[kept:].any()
    cut = lasso(left[:, :kept].detach(), right[:kept].detach())
    assert torch.equal(lasso(left, right), cut)


def test_factors_of_half_precision_are_measured_in_float32():
    left, right = draw(64, 8).bfloat16(), draw(8, 64, seed=1).bfloat16()
    found = hierarchical_group_lasso(left, right)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, hierarchical_group_lasso(left.float(), right.float()))


def test_on_balanced_factors_the_lassos_are_functions_of_the_singular_values():
    left, right, s = balanced(7, 5)
    tails = s.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(hierarchical_group_lasso(left, right), 2 * tails.sqrt().sum())
    torch.testing.assert_close(flat_group_lasso(left, right), 2 * s.sqrt().sum())


def objective(z: Tensor, x: Tensor, t: float) -> Tensor:
    """Half the squared distance to x plus t Σ ‖z_{j:}‖, for a batch of z (..., rows, R)."""
    suffixes = z.square().sum(-2).flip(-1).cumsum(-1).sqrt().sum(-1)
    return (z - x).square().sum((-2, -1)) / 2 + t * suffixes


@pytest.mark.parametrize("seed", range(20))
def test_no_perturbation_beats_the_proximal_step_and_its_zeros_are_a_suffix(seed):
    x = draw(3, 5, seed=seed)
    t = 0.05 * 1.3**seed  # from nothing zero to everything
    z = prox_hierarchical(x, -1, t)
    nearby = torch.cat(
        [z + size * draw(200, 3, 5, seed=seed) for size in (1e-3, 1e-1)]
        + [torch.stack([z * (torch.arange(5) < kept) for kept in range(5)])]
        + [z + 1e-2 * draw(50, 3, 5, seed=seed) * (z != 0)]
    )
    # The objective is convex, so what beats it somewhere beats it nearby; 1e-12 is rounding.
    assert (objective(nearby, x, t) >= objective(z, x, t) - 1e-12).all()
    alive = z.abs().sum(0) > 0
    assert torch.equal(alive, alive.cummin(0).values)


def test_the_proximal_step_meets_the_condition_of_a_minimum_where_nothing_is_zero():
    x, t = draw(6, 5), 0.05
    z = prox_hierarchical(x, -1, t).requires_grad_()
    lasso = hierarchical_group_lasso(z, z.new_zeros(5, 1))
    (gradient,) = torch.autograd.grad(lasso, z)
    torch.testing.assert_close(z.detach() + t * gradient, x)


def test_shrinking_the_groups_one_after_the_other_from_the_innermost_is_the_same():
    x, t = draw(6, 5), 0.8
    expected = x.clone()
    for j in range(4, -1, -1):
        expected[:, j:] *= (1 - t / expected[:, j:].norm()).clamp(min=0)
    torch.testing.assert_close(prox_hierarchical(x, -1, t), expected)
    torch.testing.assert_close(prox_hierarchical(x.mT, -2, t), expected.mT)


def test_a_threshold_of_zero_changes_nothing_and_a_large_one_leaves_nothing():
    x = draw(4, 6, 5)
    assert torch.equal(prox_hierarchical(x, -1, 0.0), x)
    assert not prox_hierarchical(x, -1, 1e3).any()


def test_not_a_number_is_not_taken_for_zero():
    x = draw(4, 3)
    x[0, 1] = torch.nan
    assert prox_hierarchical(x, -1, 1e3).isnan().any()


def test_a_negative_threshold_is_refused():
    with pytest.raises(ValueError, match="threshold must be at least 0, got -1"):
        prox_scales([1.0], -1.0)
