"""Laws of pruned and quantised weights: what is kept, on what levels, and what is refused."""

import pytest
import torch
from archzoo.layers.lowrank.maths.coarse_weights import (
    block_quantised,
    magnitude_pruned,
    two_of_four,
)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
def test_the_smallest_entries_go_and_the_others_stay_bit_by_bit(share):
    matrix = draw(3, 5, 7)
    pruned = magnitude_pruned(matrix, share)
    gone = pruned == 0
    assert int(gone.sum()) == int(share * matrix.numel())
    assert torch.equal(pruned[~gone], matrix[~gone])
    if gone.any():
        assert matrix[gone].abs().max() <= matrix[~gone].abs().min()


@pytest.mark.parametrize("columns", [8, 9, 10, 11])
def test_two_of_every_four_are_the_largest_two(columns):
    matrix = draw(2, 5, columns)
    kept = two_of_four(matrix)
    for start in range(0, columns, 4):
        group, left = matrix[..., start : start + 4], kept[..., start : start + 4]
        count = min(2, group.shape[-1])
        assert ((left != 0).sum(-1) == count).all()
        best = group.abs().topk(count, -1).values.sum(-1)
        torch.testing.assert_close(left.abs().sum(-1), best, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize(("bits", "block"), [(2, 4), (3, 64), (4, 5), (8, 64)])
def test_levels_are_even_symmetric_and_no_farther_than_half_a_step(bits, block):
    matrix = draw(6, 13)
    coarse = block_quantised(matrix, bits, block)
    for start in range(0, 13, block):
        group, found = (m[:, start : start + block] for m in (matrix, coarse))
        step = group.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        levels = found / step
        torch.testing.assert_close(levels, levels.round(), rtol=0.0, atol=1e-12)
        assert levels.abs().max() <= 2 ** (bits - 1) - 1 + 1e-12
        assert ((found - group).abs() <= step / 2 * (1 + 1e-12)).all()
    assert torch.equal(block_quantised(torch.zeros(2, 3), bits, block), torch.zeros(2, 3))


BAD = {
    r"share must lie in \[0, 1\), got 1.0": lambda: magnitude_pruned(draw(2, 2), 1.0),
    r"bits must lie in \[2, 8\], got 1": lambda: block_quantised(draw(2, 2), 1),
    "block must be at least 1, got 0": lambda: block_quantised(draw(2, 2), 4, 0),
    "matrix holds NaN": lambda: two_of_four(draw(2, 2) * torch.nan),
}


@pytest.mark.parametrize(("message", "call"), BAD.items())
def test_bad_arguments_are_refused_by_name(message, call):
    with pytest.raises(ValueError, match=message):
        call()
