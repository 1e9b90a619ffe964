"""Folds in memory, in image files and in a text."""

# Shape letters: N samples in a batch, C channels, H height, W width, T tokens.

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .counter_random import counter_hash, counter_uniform, seeded
from .data_set import Key
from .decode_image import decode_image

__all__ = ["ArrayFold", "Augment", "FileFold", "TokenFold", "rounds_and_indices"]

Augment = Callable[[Tensor, Tensor, Tensor], Tensor]


def rounds_and_indices(keys: list[Key]) -> tuple[Tensor, Tensor]:
    """Rounds (N,) and indices (N,) of keys, both int64."""
    pairs = torch.tensor(keys, dtype=torch.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


class ArrayFold:
    """A fold that lies in memory.

    Args:
        inputs: One row per sample, shape (size, …).
        targets: int64, shape (size,).
        transform: Maps a batch of inputs to what the model sees, such as `Normalize`.
        augment: Maps (inputs, rounds, indices) to inputs of the same shape, before `transform`.

    Raises:
        ValueError: as many targets as inputs are needed.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        transform: Callable[[Tensor], Tensor] | None = None,
        augment: Augment | None = None,
    ) -> None:
        """Keep the arrays as they are; nothing is converted before it is asked for."""
        if len(inputs) != len(targets):
            raise ValueError(f"targets must be as many as inputs, {len(inputs)}: {len(targets)}")
        self.inputs = inputs
        self.targets = targets
        self.transform = transform
        self.augment = augment

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.targets)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Fetch a batch: inputs (N, …), targets (N,)."""
        rounds, indices = rounds_and_indices(keys)
        inputs = self.inputs[indices]
        if self.augment is not None:
            inputs = self.augment(inputs, rounds, indices)
        if self.transform is not None:
            inputs = self.transform(inputs)
        return inputs, self.targets[indices]


class FileFold:
    """A fold of image files, decoded when they are asked for.

    Args:
        root: Folder that the paths are relative to.
        paths: One file per sample.
        targets: int64, shape (size,).
        transform: Maps a PIL image in RGB to a tensor (C, H, W). It may draw from torch's
            generator, which is seeded by the sample's key for the time of the call.

    Raises:
        ValueError: as many targets as paths are needed; later, when a file cannot be decoded.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        targets: Tensor,
        *,
        transform: Callable[[Any], Tensor],
    ) -> None:
        """Keep the names only."""
        if len(paths) != len(targets):
            raise ValueError(f"targets must be as many as paths, {len(paths)}: {len(targets)}")
        self.root = root
        # One array, not a list of strings: counting references to a million strings would make
        # every worker process copy the pages they lie on.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        """Count the files."""
        return len(self.targets)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Decode a batch: images (N, C, H, W), targets (N,)."""
        rounds, indices = rounds_and_indices(keys)
        images = []
        for seed, index in zip(counter_hash(rounds, indices).tolist(), indices, strict=True):
            image = decode_image(self.root / os.fsdecode(self.paths[int(index)]))
            with seeded(seed):
                images.append(self.transform(image))
        return torch.stack(images), self.targets[indices]


class TokenFold:
    """Windows of a text with the next token as the target.

    A shuffled fold (`shifted=True`) cuts the text at a different offset in every round. A fold
    to evaluate on cuts it once, and every token is a target exactly once: the first is
    predicted from `before`, and the last window is filled with targets of -100, which
    cross-entropy ignores. The mean over all targets is then the mean over the text.

    Args:
        tokens: uint8, shape (size,).
        length: Tokens T in a window, at least 1.
        shifted: Whether windows move from round to round.
        before: Token taken to precede the text; a newline.

    Raises:
        ValueError: the text holds no window; length < 1.
    """

    def __init__(
        self, tokens: Tensor, length: int, *, shifted: bool = False, before: int = ord("\n")
    ) -> None:
        """Keep the text as bytes; a batch is widened to int64."""
        if length < 1:
            raise ValueError(f"context_length must be at least 1, got {length}")
        # A shifted window may begin up to length - 1 tokens late and needs one token more.
        size = len(tokens) // length - 1 if shifted else -(-len(tokens) // length)
        if size < 1:
            raise ValueError(
                f"context_length={length} is too long for a fold of {len(tokens)} tokens;"
                " choose a shorter context or give more text"
            )
        self.tokens = torch.cat([torch.tensor([before], dtype=torch.uint8), tokens])
        self.length = length
        self.shifted = shifted
        self._size = size

    def __len__(self) -> int:
        """Count the windows of one round."""
        return self._size

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Cut a batch of windows: inputs (N, T), targets (N, T), both int64."""
        rounds, indices = rounds_and_indices(keys)
        starts = indices * self.length
        if self.shifted:
            # One shift per round, whatever the index. The text begins at 1, after `before`.
            shift = counter_uniform(rounds, torch.zeros_like(rounds), 1)[:, 0] * self.length
            starts = starts + 1 + shift.long()
        places = starts[:, None] + torch.arange(self.length + 1)
        inside = places < len(self.tokens)
        windows = self.tokens[places.clamp(max=len(self.tokens) - 1)].long()
        inputs = windows[:, :-1].masked_fill(~inside[:, :-1], 0)
        return inputs, windows[:, 1:].masked_fill(~inside[:, 1:], -100)
