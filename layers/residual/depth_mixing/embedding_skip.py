"""Embedding skip: before each block the stream is mixed with the embedding by two scalars.

With x_0 the embedding, and one λ and one μ for each block:

    x <- λ x + μ x_0               before the first branch of a block
    x <- x + y                     after every branch

λ = 1 and μ = 0 at the start: a fresh network equals `add`. A μ that has grown brings the embedding
back to every later block at the price of two numbers. Both scalars have learning rates of their own
(`layers/learning_rate.py`): that of μ is `rate` times the optimiser's, that of λ a hundredth of
it, since λ multiplies with those of all other blocks.

Source: Karpathy 2026, nanochat, `dev/LOG.md` of 11 January (`resid_lambdas`, `x0_lambdas`), after
modded-nanogpt. It reports −0.0103, −0.0077, −0.0057 and −0.0039 bits per byte at depth 8, 12, 16
and 20.
Differs from it: the embedding is not normed; Adam's constants are those of the other parameters,
and `rate` multiplies their learning rate, which nanochat sets apart; in a CNN x_0 is what opens a
stage, behind its shortcut, since widths differ, and a stage's first branch reads what the stage
before has closed with. Later versions there start λ at 1.15 to 1.05 and μ at 0.20 to 0.05.
"""

# Shape letters: D width, N blocks, ... token or pixel axes.

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ...learning_rate import set_learning_rate
from ..stream import Context, Past, Site, State, keep_branch, routing
from .block_history import BlockHistory

__all__ = ["EmbeddingSkip", "SkipState"]


class SkipState(NamedTuple):
    """The stream and the embedding."""

    x: Tensor
    embedding: Tensor


class EmbeddingSkip(BlockHistory):
    """Mix the stream with the embedding before each of N blocks. State: (x, x_0).

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        rate: Learning rate of μ over that of the other parameters, positive; λ has a hundredth.

    Raises:
        ValueError: a rate that is not positive and finite.
    """

    equals_prenorm_at_init = True
    traces_in_fx = True
    unit_axes = {"carry": (None,), "skip": (None,)}  # numbers of blocks, none of channels

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        rate: float = 1.0,
    ) -> None:
        """Make λ and μ for every block."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if not (rate > 0 and math.isfinite(rate)):
            raise ValueError(f"rate must be positive and finite, got {rate}")
        self.rate = rate
        blocks = sum(self.opening)
        self.carry = nn.Parameter(torch.empty(blocks))
        self.skip = nn.Parameter(torch.empty(blocks))
        exclude_from_decay(self, "carry", "skip")
        set_learning_rate(self, carry=rate / 100, skip=rate)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every λ to 1 and every μ to 0."""
        nn.init.ones_(self.carry)
        nn.init.zeros_(self.skip)

    def views(self, site: int) -> tuple[str, ...]:
        """Give every branch one tensor."""
        return ()

    def mixed(self, x: Tensor, embedding: Tensor, block: int) -> Tensor:
        """Return λ x + μ x_0 of a block."""
        return routing(self.carry[block]) * x + routing(self.skip[block]) * embedding

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start with the embedding, not yet mixed: a hand-off opens for another residual."""
        return SkipState(x, x)

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream, which the first site finds not yet mixed."""
        x, embedding = SkipState(*state)
        return x if site else self.mixed(x, embedding, 0)

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output; after the last of a block, mix for the next one."""
        x, embedding = SkipState(*state)
        x = x if site else self.mixed(x, embedding, 0)
        x = x + keep_branch(y, context.keep)
        if self.ending[site] and site + 1 < len(self.sites):
            x = self.mixed(x, embedding, self.ordinal[site] + 1)
        return SkipState(x, embedding)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return SkipState(*state).x

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"blocks={len(self.skip)}, rate={self.rate:.4g}"
