"""What mechanisms with several residual streams share: they differ in how the streams mix.

    h  = Σ_i p_i H_i                      read
    H' = R H + q y                        write: H'_i = Σ_j R_ij H_j + q_i y

The n streams start as copies of the embedding and close as their sum. Across a stage change goes
their mean, which is the plain sum of a network whose streams are equal.
"""

# Shape letters: B batch, D width, n streams, ... token or pixel axes. Inside, channels are last.

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...autocast import without_autocast
from ..stream import Context, Past, Residual, State, keep_branch, routing

__all__ = ["Mixing", "Streams", "StreamsState"]


class Mixing(NamedTuple):
    """How one site mixes: p (…, n), q (…, n) and R (…, n, n); leading axes may be absent."""

    pre: Tensor
    post: Tensor
    res: Tensor


class StreamsState(NamedTuple):
    """The streams H (B, …, n, D), and the mixing of the next site where it is known already."""

    streams: Tensor
    mixing: Mixing | None = None


class Streams(Residual):
    """Read, mix and write n streams; a subclass says by which weights."""

    streams: int

    def mixing(self, streams: Tensor, site: int) -> Mixing:
        """Return a site's weights for streams (B, …, n, D)."""
        raise NotImplementedError

    def stream_shape(self, first: Tensor) -> torch.Size:
        """Leave out the axis of the streams, and put that of D where it was."""
        *tokens, _, width = first.shape
        axis = 1 if self.channel_dim == 1 else len(tokens)
        return torch.Size([*tokens[:axis], width, *tokens[axis:]])

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Copy the embedding into every stream."""
        x = x.movedim(self.channel_dim, -1).unsqueeze(-2)
        return StreamsState(x.expand(*x.shape[:-2], self.streams, -1))

    def read(self, state: State, site: int) -> Tensor:
        """Return the site's mixture of the streams."""
        streams, mixing = StreamsState(*state)
        pre = routing((mixing or self.mixing(streams, site)).pre).unsqueeze(-2)
        # In the streams' own precision: products of small matrices are no branch's work.
        with without_autocast(streams):
            mixed = (pre.to(streams.dtype) @ streams).squeeze(-2)
        return mixed.movedim(-1, self.channel_dim)

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Mix the streams and add the branch output to each; weigh them for the next site."""
        streams, mixing = StreamsState(*state)
        _, post, res = mixing or self.mixing(streams, site)
        y = keep_branch(y, context.keep).movedim(self.channel_dim, -1).unsqueeze(-2)
        with without_autocast(streams):
            mixed = routing(res).to(streams.dtype) @ streams
        post = routing(post).to(mixed.dtype).unsqueeze(-1)
        streams = torch.addcmul(mixed, post, y.to(mixed.dtype))
        last = site + 1 == len(self.sites)
        return StreamsState(streams, None if last else self.mixing(streams, site + 1))

    def close(self, state: State) -> Tensor:
        """Return the sum of the streams."""
        return StreamsState(*state).streams.sum(-2).movedim(-1, self.channel_dim)

    def handoff(
        self, state: State, fn: Callable[[Tensor], Tensor], closed: Tensor | None = None
    ) -> State:
        """Map the mean of the streams."""
        closed = self.close(state) if closed is None else closed
        return self.open(fn(closed / self.streams))
