"""Folds of sequences of any length: padded to the longest of a batch, with classes or to be filled.

What is padded changes nothing that a model makes of the rest, so a sample is a function of its key
but for the padding behind it.
"""

# Shape letters: N samples in a batch, T tokens.

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ....zoo.backbones.encoder import PADDING
from ..counter_random import counter_uniform
from ..data_set import Key
from ..fold_storage import rounds_and_indices
from .token_masking import DRAWS, hide_tokens

__all__ = ["MaskedFold", "SequenceFold", "padded", "unpadded"]


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Put tokens into one tensor (N, T), shorter rows filled up behind."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PADDING)


def unpadded(tokens: Tensor) -> Iterator[Tensor]:
    """Cut padded tokens (N, T) into batches of one length each, in which nothing is padding."""
    lengths = (tokens != PADDING).sum(1)
    for length in lengths[lengths > 0].unique():
        yield tokens[lengths == length, :length]


class SequenceFold:
    """Sequences and their classes.

    Args:
        tokens: Of each sequence, int32 (T,), at least one.
        targets: Class of each, int64, shape (size,).
        length: Most tokens of a sample, at least 1; of a longer sequence the first are taken.
        crop: Most tokens of a window drawn anew in every round; None draws none.

    Raises:
        ValueError: as many targets as sequences are needed; length or crop < 1.
    """

    def __init__(
        self,
        tokens: Sequence[np.ndarray],
        targets: Tensor,
        length: int,
        *,
        crop: int | None = None,
    ) -> None:
        """Keep the tokens in one piece."""
        if len(tokens) != len(targets):
            raise ValueError(f"targets must be as many as sequences, {len(tokens)}: {len(targets)}")
        for name, value in {"context_length": length, "crop": crop}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.tokens = torch.from_numpy(np.concatenate([*tokens, np.zeros(0, dtype=np.int32)]))
        sizes = torch.tensor([len(each) for each in tokens], dtype=torch.int64)
        self.sizes, self.starts = sizes, sizes.cumsum(0) - sizes
        self.targets, self.length, self.crop = targets, length, crop

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self.targets)

    def windows(self, rounds: Tensor, indices: Tensor) -> Tensor:
        """Return the tokens of samples, padded, int64 (N, T)."""
        sizes, starts = self.sizes[indices], self.starts[indices]
        most = self.length if self.crop is None else min(self.crop, self.length)
        if self.crop is not None:
            spare = (sizes - most).clamp_min(0)
            drawn = counter_uniform(rounds, indices, 1)[:, 0].double()
            starts = starts + (drawn * (spare + 1)).long()
        ends = starts + sizes.clamp(max=most)
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        return padded([self.tokens[start:end].long() for start, end in pairs])

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Fetch a batch: tokens (N, T), targets (N,)."""
        rounds, indices = rounds_and_indices(keys)
        return self.windows(rounds, indices), self.targets[indices]


class MaskedFold:
    """Sequences some of whose tokens are hidden, which are the targets.

    Args:
        sequences: Whole ones; their classes are not read.
        vocab_size: Tokens, the special ones among them.
        share: Of the tokens that are hidden.
        span: How many in a row.
        fixed: Whether the same are hidden in every round, to evaluate by.

    Raises:
        ValueError: share outside (0, 1), or span < 1.
    """

    def __init__(
        self,
        sequences: SequenceFold,
        vocab_size: int,
        *,
        share: float = 0.15,
        span: int = 1,
        fixed: bool = False,
    ) -> None:
        """Keep the settings."""
        if not 0.0 < share < 1.0:
            raise ValueError(f"masked must lie in (0, 1), got {share}")
        if span < 1:
            raise ValueError(f"span must be at least 1, got {span}")
        self.sequences, self.vocab_size = sequences, vocab_size
        self.share, self.span, self.fixed = share, span, fixed

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self.sequences)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Fetch a batch: what is seen and what is hidden, both int64 (N, T)."""
        rounds, indices = rounds_and_indices(keys)
        tokens = self.sequences.windows(rounds, indices)
        # The first number of a sample places its window. Those of a token do not depend on how
        # many there are in the batch.
        count = DRAWS * tokens.shape[1]
        given = torch.zeros_like(rounds) if self.fixed else rounds
        draws = counter_uniform(given, indices, 1 + count)[:, 1:]
        shape = (len(keys), tokens.shape[1], DRAWS)
        return hide_tokens(
            tokens, draws.reshape(shape), self.vocab_size, share=self.share, span=self.span
        )
