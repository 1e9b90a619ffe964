"""A permutation without a list."""

import pytest
import torch
from archzoo.train.data.shards.permutation import permuted


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1025])
def test_every_place_is_reached_once_under_every_key(size):
    places = torch.arange(size)
    for key in (0, 1, 2**62):
        assert sorted(permuted(torch.full((size,), key), places, size).tolist()) == places.tolist()


def test_a_place_depends_on_its_own_key_only():
    keys, places = torch.arange(50) % 3, torch.arange(50)
    alone = [permuted(keys[i : i + 1], places[i : i + 1], 1000).item() for i in range(50)]
    assert permuted(keys, places, 1000).tolist() == alone


def test_other_keys_give_other_orders_without_a_trend():
    size = 10_000
    places = torch.arange(size)
    one, two = (permuted(torch.full((size,), key), places, size).double() for key in (7, 8))
    # A correlation of 10,000 independent pairs has the standard deviation 0.01.
    for pair in ((one, two), (one, places.double()), (one[1:], one[:-1])):
        assert abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 0.05


def test_places_beyond_32_bits_stay_below_the_size():
    size = 5 * 2**40
    places = torch.arange(size - 1000, size)
    found = permuted(torch.zeros_like(places), places, size)
    assert found.unique().numel() == 1000 and found.min() >= 0 and found.max() < size
