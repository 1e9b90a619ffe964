"""Laws of the columns that stand for a matrix, and of moments when they change."""

import itertools

import pytest
import scipy.fft
import torch
from archzoo.layers.lowrank.maths.subspace import (
    cosine_basis,
    gather_columns,
    random_basis,
    singular_basis,
    strongest_columns,
)
from torch import Tensor

LIKE = torch.zeros((), dtype=torch.float64)


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 257])
def test_cosines_are_orthonormal(n: int) -> None:
    basis = cosine_basis(n, LIKE)
    # n products of numbers below √(2 / n): a few roundings.
    torch.testing.assert_close(basis.mT @ basis, torch.eye(n).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_the_product_with_the_cosines_is_the_transform_of_scipy(n: int) -> None:
    g = matrix(9, n)
    transformed = torch.from_numpy(scipy.fft.dct(g.numpy(), type=2, norm="ortho", axis=-1))
    torch.testing.assert_close(g @ cosine_basis(n, LIKE), transformed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_is_rounded_once(dtype: torch.dtype) -> None:
    like = torch.zeros((), dtype=dtype)
    assert torch.equal(cosine_basis(33, like), cosine_basis(33, LIKE).to(dtype))


def test_the_residual_is_the_energy_of_the_columns_that_are_left_out() -> None:
    g, basis = matrix(40, 24), cosine_basis(24, LIKE)
    chosen = strongest_columns(g @ basis, 7)
    kept = basis[:, chosen]
    energies = (g @ basis).square().sum(0)
    residual = (g - g @ kept @ kept.mT).square().sum()
    left_out = energies.sum() - energies[chosen].sum()
    torch.testing.assert_close(residual, left_out, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_columns_leave_a_smaller_residual_but_singular_vectors_do(seed: int) -> None:
    g, basis = matrix(9, 7, seed=seed), cosine_basis(7, LIKE)

    def residual(kept: Tensor) -> float:
        return float((g - g @ kept @ kept.mT).square().sum())

    least = residual(basis[:, strongest_columns(g @ basis, 3)])
    others = [residual(basis[:, list(c)]) for c in itertools.combinations(range(7), 3)]
    assert least == pytest.approx(min(others), rel=1e-12)
    assert residual(singular_basis(g, 3)) < least
    assert residual(basis[:, strongest_columns(g @ basis, 3, "l1")]) >= least * (1 - 1e-12)


def test_a_gather_is_the_rotation_between_two_choices_of_columns() -> None:
    basis, values = cosine_basis(12, LIKE), matrix(5, 4)
    old, new = torch.tensor([0, 3, 7, 11]), torch.tensor([3, 4, 5, 11])
    turn = basis[:, old].mT @ basis[:, new]
    found = gather_columns(values, old, new, 12)
    torch.testing.assert_close(found, values @ turn, rtol=0, atol=1e-14)
    torch.testing.assert_close(found, values @ turn.square(), rtol=0, atol=1e-14)
    assert torch.equal(found[:, [0, 3]], values[:, [1, 3]]) and bool((found[:, 1:3] == 0).all())
    assert torch.equal(gather_columns(values, old, old, 12), values)
    assert torch.equal(gather_columns(values[0], old, new, 12), found[0])


@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_singular_columns_hold_the_largest_singular_values(shape: tuple[int, int]) -> None:
    g = matrix(*shape)
    kept = singular_basis(g, 3)
    torch.testing.assert_close(kept.mT @ kept, torch.eye(3).double(), rtol=0, atol=1e-13)
    values = torch.linalg.svdvals(g)[:3]
    torch.testing.assert_close(torch.linalg.svdvals(g @ kept), values, rtol=1e-12, atol=0)


def test_random_columns_are_orthonormal_and_follow_from_the_generator() -> None:
    one, same = (random_basis(9, 4, LIKE, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, same)
    torch.testing.assert_close(one.mT @ one, torch.eye(4).double(), rtol=0, atol=1e-13)
    assert not torch.equal(one, random_basis(9, 4, LIKE, torch.Generator().manual_seed(4)))


def test_a_gradient_without_singular_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="a gradient of 3x2 holds NaN.*clip gradients"):
        singular_basis(torch.full((3, 2), float("nan")), 1)
