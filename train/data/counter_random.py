"""Random numbers that are a function of a counter, not of a history.

An augmented sample must not depend on which worker, rank or batch draws it, nor on whether
the run was resumed. So its randomness is a hash of the pair (round, index): the splitmix64
generator seeded by the round, read at the position of the sample's index.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA,
figure 17 (the `mix64` variant 13 of Stafford).
Differs from it: the seed is mixed once more, so that neighbouring rounds share no stream.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["counter_hash", "counter_key", "counter_uniform", "seeded"]


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shifted(words: Tensor, bits: int) -> Tensor:
    # int64 shifts copy the sign bit; the mask makes the shift a logical one.
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def counter_hash(rounds: Tensor, indices: Tensor) -> Tensor:
    """Hash pairs of integers to 63 well-mixed bits.

    Args:
        rounds: int64, shape (N,) or broadcastable.
        indices: int64, shape (N,).

    Returns:
        int64 in [0, 2^63), shape (N,).
    """
    return _shifted(_mix(_mix(rounds + _STEP) + (indices + 1) * _STEP), 1)


def counter_key(seed: int, epoch: int) -> int:
    """Mix two integers into one, below 2^63: the round of an epoch, or a generator's seed."""
    return int(counter_hash(torch.tensor([seed]), torch.tensor([epoch])))


def counter_uniform(rounds: Tensor, indices: Tensor, draws: int) -> Tensor:
    """Draw uniform numbers, each a function of its round, its index and its column only.

    Args:
        rounds: int64, shape (N,).
        indices: int64, shape (N,).
        draws: Numbers per sample, at least 1.

    Returns:
        float32 in [0, 1), shape (N, draws); multiples of 2^-24, so that 1 is never reached.
    """
    columns = torch.arange(1, draws + 1) * _STEP
    words = _mix(counter_hash(rounds, indices)[:, None] + columns)
    return _shifted(words, 40).to(torch.float32) * 2.0**-24


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block on a seeded CPU generator and give the old state back afterwards."""
    state = torch.get_rng_state()
    # torch.manual_seed would also reseed every accelerator and so disturb dropout there.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
