"""A permutation of many places that is computed place by place, and kept nowhere.

Shuffling a list of the windows of a terabyte takes gigabytes and minutes. Here a place is written
as a pair (left, right) of digits below a and b, where a · b hardly exceeds the size, and in turn

    left <- (left + hash(key, right)) mod a,    right <- (right + hash(key, left)) mod b

Each step can be undone, whatever the hash is. A pair beyond the size is sent through it again until
it lands below (cycle walking), which leaves a permutation of the size.

Source: Black, Rogaway 2002, "Ciphers with arbitrary finite domains", CT-RSA, methods 2 and 3.
Differs from it: four steps of splitmix64 serve to shuffle, and hide nothing.
"""

import math

import torch
from torch import Tensor

from ..counter_random import counter_hash

__all__ = ["permuted"]

STEPS = 4


def permuted(keys: Tensor, places: Tensor, size: int) -> Tensor:
    """Return where each place goes under the permutation of its key.

    Args:
        keys: int64, shape (N,), at least 0.
        places: int64 in [0, size), shape (N,).
        size: Numbers permuted, at least 1.

    Returns:
        int64 in [0, size), shape (N,).
    """
    a = math.isqrt(size)
    b = -(-size // a)
    steps = torch.arange(STEPS).repeat_interleave(len(keys))
    mixed = counter_hash(keys.repeat(STEPS), steps).view(STEPS, -1)
    found = _mixed(mixed, places, a, b)
    while (outside := found >= size).any():
        found[outside] = _mixed(mixed[:, outside], found[outside], a, b)
    return found


def _mixed(keys: Tensor, places: Tensor, a: int, b: int) -> Tensor:
    left, right = places // b, places % b
    for i, key in enumerate(keys):
        if i % 2 == 0:
            left = (left + counter_hash(key, right) % a) % a
        else:
            right = (right + counter_hash(key, left) % b) % b
    return left * b + right
