"""A fold of windows over token files, of which only what a batch asks for is read."""

# Shape letters: N samples in a batch, T tokens in a window.

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..counter_random import counter_hash
from ..data_set import Key
from ..fold_storage import rounds_and_indices
from .open_shard import Shard
from .permutation import permuted

__all__ = ["Order", "ShardFold", "Span"]

Order = Literal["shuffled", "random", "sequential", "evaluation"]


class Span(NamedTuple):
    """The tokens of a shard from `start` to before `stop`."""

    shard: Shard
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class ShardFold:
    """Windows of T tokens with the next tokens as targets; none reaches past the end of a span.

    A window is a function of its key alone, so a run that goes on, with whatever number of workers
    or processes, reads what it would have read. The orders of a round:

        shuffled    windows one after another from an offset that every round draws anew, permuted:
                    nearly every token is a target once
        random      as many windows as that, each from a place of its own, drawn with replacement
        sequential  windows one after another from the first token, in the order of the spans
        evaluation  the same, the last one of a span filled with targets of -100: each token but the
                    first of a span is a target exactly once

    Args:
        spans: Where the tokens are.
        length: Tokens T in a window, at least 1.
        vocab_size: Every token must lie below.
        order: As above.

    Attributes:
        orders_itself: That no loader need shuffle the indices: a list of all of them need not fit
            into memory.

    Raises:
        ValueError: no window, or length < 1; later, a token outside the vocabulary, by file and
            place.
    """

    orders_itself = True

    def __init__(
        self, spans: Sequence[Span], length: int, *, vocab_size: int, order: Order
    ) -> None:
        """Count the windows; no token is read."""
        if length < 1:
            raise ValueError(f"context_length must be at least 1, got {length}")
        self.length, self.vocab_size, self.order = length, vocab_size, order
        self.spans = [span for span in spans if self._windows(span)]
        if not self.spans:
            longest = max((span.size for span in spans), default=0)
            raise ValueError(
                f"context_length={length} is too long for token files of at most {longest} tokens; "
                f"choose a shorter context or give longer files"
            )
        self._windows_before = _sums_before([self._windows(span) for span in self.spans])
        self._starts_before = _sums_before([span.size - length for span in self.spans])
        self._size = sum(map(self._windows, self.spans))

    def _windows(self, span: Span) -> int:
        if self.order == "evaluation":
            return max(0, -(-(span.size - 1) // self.length))
        if self.order == "sequential":
            return max(0, (span.size - 1) // self.length)
        # A shifted window may begin up to T - 1 tokens late and needs one token more.
        return max(0, span.size // self.length - 1)

    def __len__(self) -> int:
        """Count the windows of one round."""
        return self._size

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Read a batch of windows: inputs (N, T), targets (N, T), both int64.

        Raises:
            ValueError: a token outside the vocabulary, naming its file and place.
        """
        places = self._places(keys)
        windows = torch.zeros(len(keys), self.length + 1, dtype=torch.int64)
        ends = torch.zeros(len(keys), 1, dtype=torch.int64)
        for i, (span, start) in enumerate(places):
            stop = min(start + self.length + 1, span.stop)
            windows[i, : stop - start] = torch.from_numpy(span.shard.read(start, stop))
            ends[i] = stop - start
        self._check(windows, places)
        outside = torch.arange(1, self.length + 1) >= ends
        return windows[:, :-1], windows[:, 1:].masked_fill(outside, -100)

    def _places(self, keys: list[Key]) -> list[tuple[Span, int]]:
        """The span of each window, and the token of its shard that the window begins with."""
        rounds, indices = rounds_and_indices(keys)
        if self.order == "random":
            total = self._starts_before[-1] + self.spans[-1].size - self.length
            drawn = counter_hash(rounds, indices) % total
            which = torch.searchsorted(self._starts_before, drawn, right=True) - 1
            offsets = drawn - self._starts_before[which]
        else:
            if self.order == "shuffled":
                indices = permuted(rounds, indices, self._size)
            which = torch.searchsorted(self._windows_before, indices.contiguous(), right=True) - 1
            offsets = (indices - self._windows_before[which]) * self.length
            if self.order == "shuffled":
                offsets = offsets + counter_hash(rounds, which) % self.length
        return [
            (self.spans[i], self.spans[i].start + offset)
            for i, offset in zip(which.tolist(), offsets.tolist(), strict=True)
        ]

    def _check(self, windows: Tensor, places: list[tuple[Span, int]]) -> None:
        if int(windows.min()) >= 0 and int(windows.max()) < self.vocab_size:
            return
        row, column = ((windows < 0) | (windows >= self.vocab_size)).nonzero()[0].tolist()
        span, start = places[row]
        raise ValueError(
            f"{span.shard.path} has the token {int(windows[row, column])} at {start + column}, "
            f"outside the vocabulary of {self.vocab_size}; give data.vocab_size of what wrote the "
            f"file, or its data.dtype"
        )


def _sums_before(sizes: Sequence[int]) -> Tensor:
    """The sum of all sizes before each."""
    return torch.tensor([0, *sizes[:-1]]).cumsum(0)
