"""Laws of a branch that stochastic depth drops."""

import torch

from ..stacks import (
    SITES,
    WIDTH,
    branch_weights,
    fill,
    normal,
    stack,
    trained,
)
from .given import BITWISE, TOL, Make, embedding, outputs

__all__ = [
    "a_branch_that_was_kept_weighs_as_much_more_as_its_mask",
    "a_keep_mask_of_ones_is_no_mask",
    "a_sample_never_sees_the_keep_mask_of_another",
    "what_a_dropped_branch_computed_does_not_matter",
]


def a_keep_mask_of_ones_is_no_mask(make: Make) -> None:
    residual = trained(make())
    ones = torch.ones(len(SITES), 2, 1, 1, dtype=torch.float64)
    closed = [stack(residual, embedding(), branch_weights(), keep=keep) for keep in (ones, None)]
    torch.testing.assert_close(*closed, **BITWISE)


def what_a_dropped_branch_computed_does_not_matter(make: Make) -> None:
    residual = trained(make())
    x, ys = normal(3, 2, WIDTH), normal(len(SITES), 3, 2, WIDTH, seed=1)
    keep = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    keep = torch.cat([keep, keep.flip(0).roll(1, 1)]).repeat(3, 1, 1, 1)
    noise = torch.where(keep == 0, normal(*ys.shape, seed=2), 0.0)
    expected = residual.close(fill(residual, x, ys, keep))
    torch.testing.assert_close(
        residual.close(fill(residual, x, ys + noise, keep)), expected, **BITWISE
    )
    assert not torch.equal(residual.close(fill(residual, x, ys + noise)), expected)


def a_branch_that_was_kept_weighs_as_much_more_as_its_mask(make: Make) -> None:
    residual = trained(make())
    keep = torch.ones(len(SITES), 2, 1, 1, dtype=torch.float64)
    plain, heavy = (
        residual.close(fill(residual, embedding(), outputs(), factor * keep)) for factor in (1, 2)
    )
    assert ((plain - heavy).abs().amax((1, 2)) > 1e-6).all()


def a_sample_never_sees_the_keep_mask_of_another(make: Make) -> None:
    residual, weights = trained(make()), branch_weights()
    g = torch.Generator().manual_seed(0)
    keep = torch.randint(0, 2, (len(SITES), 2, 1, 1), generator=g).double() * 2
    assert keep[:, 0].ne(keep[:, 1]).any()
    together = stack(residual, embedding(), weights, keep=keep)
    for i in range(2):
        alone = stack(residual, embedding()[i : i + 1], weights, keep=keep[:, i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, **TOL)
