"""Several products of factors as one: what is exact, and what must not matter."""

import pytest
import torch
from archzoo.layers.lowrank.maths.merge_units import averaged, clustered, concatenated, truncated

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts_of(count, rank=3, rows=7, columns=6):
    return [
        (drawn(rows, rank, seed=2 * n), drawn(rank, columns, seed=2 * n + 1)) for n in range(count)
    ]


def product(factors):
    return factors[0] @ factors[1]


def test_components_put_together_have_the_weighted_sum_as_product():
    parts = parts_of(3)
    expected = 0.5 * product(parts[0]) + 2 * product(parts[1]) + product(parts[2])
    torch.testing.assert_close(product(concatenated(parts, [0.5, 2, 1])), expected, **CLOSE)
    most = clustered(parts, [0.5, 2, 1], 9)
    torch.testing.assert_close(product(most), expected, **CLOSE)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_truncated_sum_is_the_best_of_its_rank(rank):
    parts = parts_of(2)
    whole = product(parts[0]) + product(parts[1])
    found = truncated(parts, [1, 1], rank)
    assert found[0].shape[-1] == rank
    error = (whole - product(found)).square().sum()
    torch.testing.assert_close(error, torch.linalg.svdvals(whole)[rank:].square().sum(), **CLOSE)
    lego = (whole - product(clustered(parts, [1, 1], rank))).square().sum()
    assert lego >= error - 1e-12


def test_a_mean_over_a_shared_factor_is_exact_and_another_is_refused():
    right = drawn(3, 6)
    parts = [(drawn(7, 3, seed=n), right) for n in (1, 2)]
    expected = (product(parts[0]) + product(parts[1])) / 2
    torch.testing.assert_close(product(averaged(parts, [0.5, 0.5])), expected, **CLOSE)
    both = [sum(side) / 2 for side in zip(*parts_of(2), strict=True)]
    exact = sum(map(product, parts_of(2))) / 2
    assert (product(both) - exact).norm() > 0.5 * exact.norm()
    with pytest.raises(ValueError, match="right factors of their own.*ffa_lora and one seed"):
        averaged(parts_of(2), [0.5, 0.5])


def disguised(parts):
    """The same terms in another order, at other scales and with other signs."""
    scales = torch.tensor([3.0, -0.2, -7.0], dtype=torch.float64)
    order = [2, 0, 1]
    return [
        ((left * scales)[:, order], (right / scales[:, None])[order])
        for left, right in reversed(parts)
    ]


@pytest.mark.parametrize("rank", [2, 4])
def test_clusters_depend_on_no_order_scale_or_sign_of_components(rank):
    parts = parts_of(3)
    one = product(clustered(parts, [1, 1, 1], rank))
    other = product(clustered(disguised(parts), [1, 1, 1], rank))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("weights", "factor"), [((1, 1), 2.0), ((0.5, 0.5), 1.0)])
def test_copies_of_one_adapter_merge_to_its_multiple(weights, factor):
    (part,) = parts_of(1)
    same = disguised([part])[0]
    found = product(clustered([part, same], weights, 3))
    torch.testing.assert_close(found, factor * product(part), rtol=0, atol=1e-10)


def test_matrices_of_a_batch_are_merged_one_by_one():
    parts = [(drawn(2, 7, 3, seed=n), drawn(2, 3, 6, seed=n + 9)) for n in (1, 2)]
    found = product(clustered(parts, [1, 1], 4))
    for place in range(2):
        alone = [(left[place], right[place]) for left, right in parts]
        torch.testing.assert_close(found[place], product(clustered(alone, [1, 1], 4)), **CLOSE)


def test_a_component_of_zeros_and_what_cannot_be_merged():
    left, right = drawn(7, 3), drawn(3, 6, seed=1)
    left[:, 1] = 0
    assert clustered([(left, right), (left, right)], [1, 1], 3)[0].isfinite().all()
    with pytest.raises(ValueError, match="no adapters to merge"):
        concatenated([], [])
    with pytest.raises(ValueError, match="1 weights do not fit 2 adapters"):
        concatenated(parts_of(2), [1])
    with pytest.raises(ValueError, match="weights must be above 0"):
        truncated(parts_of(2), [1, 0], 2)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        clustered(parts_of(2), [1, 1], 0)
