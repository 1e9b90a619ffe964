"""A permutation of many places that is computed place by place, and kept nowhere.

Shuffling a list of the windows of a terabyte takes gigabytes and minutes. A Feistel network is a
bijection of pairs of half-words whatever its round function is, so one whose round function is a
hash of a key permutes the numbers below a power of four. Numbers beyond the size are sent through
it again until they land below (cycle walking), which is a permutation of the size.

Source: Black, Rogaway 2002, "Ciphers with arbitrary finite domains", CT-RSA, methods 2 and 3.
Differs from it: four rounds of splitmix64 serve to shuffle, and hide nothing.
"""

import torch
from torch import Tensor

from ..counter_random import counter_hash

__all__ = ["permuted"]

ROUNDS = 4


def permuted(keys: Tensor, places: Tensor, size: int) -> Tensor:
    """Return where each place goes under the permutation of its key.

    Args:
        keys: int64, shape (N,), at least 0.
        places: int64 in [0, size), shape (N,).
        size: Numbers permuted, at least 1.

    Returns:
        int64 in [0, size), shape (N,).
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    found = _feistel(keys, places, half)
    while (outside := found >= size).any():
        found = torch.where(outside, _feistel(keys, found, half), found)
    return found


def _feistel(keys: Tensor, words: Tensor, half: int) -> Tensor:
    mask = (1 << half) - 1
    left, right = words >> half, words & mask
    for i in range(ROUNDS):
        mixed = counter_hash(counter_hash(keys, torch.full_like(keys, i)), right)
        left, right = right, left ^ (mixed & mask)
    return (left << half) | right
