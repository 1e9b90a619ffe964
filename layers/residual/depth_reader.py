"""How a site of Attention Residuals reads the history: as defined, or mixed one site ahead.

Readers are known in advance, so a write already mixes what the next site reads. That lets the
gradient of a source grow in place from reader to reader, a finished source be scored against all
queries to come in one product, and, where no gradient is wanted, a block's first reader mix the
finished sources for all readers of the block.
"""

# Shape letters: D width, L branches, Q queries, S branches of a block, n sources.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..autocast import without_autocast
from .depth_autograd import (
    combine,
    fused_mix,
    fused_phase_one,
    fused_phase_two,
    public_mix,
    push_scores,
)
from .depth_mix import (
    Competition,
    compete,
    depth_logits,
    depth_mix,
    key_statistic,
    merge,
    phase_one,
)
from .fast_path import kernel_reads, public_kernel_takes, records_references
from .stream import Residual, working_dtype

__all__ = ["DepthReader", "Sources"]


class Sources(NamedTuple):
    """The state: what may be read, for which samples, and what the next site will read.

    `values` holds n tensors of one shape; `alive` holds, for each, None or a mask (B, 1, …) that
    is False where stochastic depth dropped everything in it. `stream` is the plain sum, kept for
    additive reads only. `ready` is the read of site `site`, or None where it is still to be mixed.
    `scores` holds the logits of the finished sources under the queries to come, and `ahead` what
    the queries of the open block, from a site on, make of the finished sources: mixtures, levels,
    the queries and that site.
    """

    values: tuple[Tensor, ...]
    alive: tuple[Tensor | None, ...]
    stream: Tensor | None = None
    ready: Tensor | None = None
    site: int = 0
    scores: tuple[tuple[Tensor, ...], ...] = ()
    ahead: tuple[Sequence[Tensor], Tensor, Tensor, int] | None = None


class DepthReader(Residual):
    """What every form of Attention Residuals reads with; `AttnRes` says what it reads.

    Attributes:
        query: Pseudo-queries w (rows, D).
        gain: Key gains γ (rows, D), or None.
        query_weight: W (rows, D, D) of an input-dependent query, or None.
        row: The row of each site, and last of the readout.
        block_size: Branches S of a block.
        heads: Groups of channels with weights of their own.
        competition: How logits become weights.
        window: How many sources are kept beside the embedding, or None.
        additive: Whether the mixture is added to the stream.
        eps: Added to the mean square of a key.
    """

    query: nn.Parameter
    gain: nn.Parameter | None
    query_weight: nn.Parameter | None
    row: list[int]
    block_size: int = 1
    heads: int
    competition: Competition
    window: int | None
    additive: bool
    eps: float

    def _query(self, site: int, newest: Tensor) -> Tensor:
        """Return γ ⊙ w of a site, shaped to broadcast over a source."""
        row = self.row[site]
        query = self.query[row]
        if self.query_weight is None:
            query = query if self.gain is None else query * self.gain[row]
            return self.along_channels(query, newest)
        value = newest.to(working_dtype(newest))
        key = (value * key_statistic(value, self.channel_dim, self.eps)).movedim(
            self.channel_dim, -1
        )
        query = query + F.linear(key, self.query_weight[row].to(key.dtype))
        return (query if self.gain is None else query * self.gain[row]).movedim(
            -1, self.channel_dim
        )

    def _queries(self, first: int, last: int) -> Tensor:
        """Return γ ⊙ w (Q, D) of the sites first, …, last − 1."""
        rows: list[int] | slice = self.row[first:last]
        if rows == [*range(rows[0], rows[0] + len(rows))]:
            rows = slice(rows[0], rows[-1] + 1)  # a view instead of a copy
        return self.query[rows] if self.gain is None else self.query[rows] * self.gain[rows]

    def _readable(self, sources: Sources, site: int) -> int:
        """Count the sources that a site may read: an additive read leaves out the open block."""
        return len(sources.values) - bool(self.additive and site % self.block_size)

    def mix(self, sources: Sources, site: int) -> Tensor:
        """The definition: what a site reads, from the history alone.

        Branches may have written in half precision; logits and weights are formed in float32, here
        and wherever a site looks ahead, and a read has the embedding's dtype.
        """
        with without_autocast(sources.values[0]):
            return self._mix(sources, site)

    def _mix(self, sources: Sources, site: int) -> Tensor:
        if self.additive and (site == 0 or site == len(self.sites)):
            assert sources.stream is not None
            return sources.stream
        if len(sources.values) == 1 and site == 0:
            return sources.values[0]
        count = self._readable(sources, site)
        mixed = depth_mix(
            sources.values[:count],
            self._query(site, sources.values[-1]),
            channel_dim=self.channel_dim,
            eps=self.eps,
            heads=self.heads,
            competition=self.competition,
            alive=sources.alive[:count],
        )
        return mixed if sources.stream is None else sources.stream + mixed

    def look_ahead(self, sources: Sources) -> Sources:
        """Mix what the next site reads, unless another tool follows the definition."""
        with without_autocast(sources.values[0]):
            return self._look_ahead(sources)

    def _look_ahead(self, sources: Sources) -> Sources:
        site = sources.site
        if self.additive and site == len(self.sites):
            return sources
        if not records_references(self.query, *sources.values):
            return sources
        count = self._readable(sources, site)
        values = passed = sources.values[:count]
        alive = sources.alive[:count]
        basic = self.heads == 1 and self.competition == "softmax" and self.channel_dim == -1
        basic = basic and self.query_weight is None
        kernel = basic and kernel_reads("attnres", *values)
        whole = basic and all(mask is None for mask in alive)
        # In two phases a block's later sites read what its first does: a window would move on.
        batched = self.block_size > 1 and self.window is None and not self.additive
        if whole and batched and not torch.is_grad_enabled():
            return self._two_phases(sources, kernel)
        if whole and public_kernel_takes(*values):
            mixed = public_mix(values, self._query(site, values[-1]), self.eps)
        elif kernel:
            query = self._query(site, values[-1])
            mixed, passed = fused_mix(values, query, self.eps, alive)
        else:
            sources = self._push_scores(sources)
            logits = self._logits(sources, site, count)
            weights = compete(logits, self.competition)
            mixed, passed = combine(weights, values, self.channel_dim)
        if sources.stream is not None:
            mixed = sources.stream + mixed
        if site == len(self.sites):
            passed = values  # nobody reads after the readout
        return sources._replace(values=(*passed, *sources.values[count:]), ready=mixed)

    def _push_scores(self, sources: Sources) -> Sources:
        """Score every source that has been finished since against all queries to come."""
        if self.query_weight is not None:
            return sources
        finished = len(sources.values) - bool(sources.site % self.block_size)
        fresh = sources.values[len(sources.scores) : finished]
        last = len(self.sites) + 1
        scores = tuple(self._scores(value, sources.site, last) for value in fresh)
        return sources._replace(scores=(*sources.scores, *scores))

    def _scores(self, value: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Return one source's logits under the queries of sites first, …, last − 1."""
        queries = self._queries(first, last)
        return push_scores(value, queries, self.heads, self.channel_dim, self.eps)

    def _logits(self, sources: Sources, site: int, count: int) -> Tensor:
        """Gather the logits (n, …) of a site's first `count` sources; an open sum is scored now."""
        values, alive = sources.values[:count], sources.alive[:count]
        if self.query_weight is not None:
            query = self._query(site, sources.values[-1])
            axis, heads = self.channel_dim, self.heads
            return depth_logits(
                values, query, channel_dim=axis, eps=self.eps, heads=heads, alive=alive
            )
        later = site - len(self.sites) - 1  # from the end: the readout is the last query
        logits = [scores[later] for scores in sources.scores]
        logits += [self._scores(value, site, site + 1)[0] for value in values[len(logits) :]]
        pairs = zip(logits, alive, strict=True)
        return torch.stack(
            [s if mask is None else s.masked_fill(~mask, -torch.inf) for s, mask in pairs]
        )

    def _two_phases(self, sources: Sources, kernel: bool) -> Sources:
        """Mix for all queries of a block when it opens, and merge its running sum later."""
        site, begun = sources.site, sources.site % self.block_size
        ahead = sources.ahead if begun else None
        if ahead is None:
            # Nobody looked ahead from an embedding, so the first block is asked in its middle.
            last = min(site - begun + self.block_size, len(self.sites) + 1)
            finished = sources.values[: len(sources.values) - bool(begun)]
            queries = self._queries(site, last)
            if kernel:
                phase = fused_phase_one(finished, queries, self.eps)
            else:
                logits = [torch.stack(self._scores(value, site, last)) for value in finished]
                phase = phase_one(finished, torch.stack(logits, 1))
            ahead = (*phase, queries, site)
        mixed, level, queries, first = ahead
        ready, later = mixed[site - first], sources.values[-1]
        if begun and kernel:
            ready = fused_phase_two(
                ready, level[site - first], later, queries[site - first], self.eps
            )
        elif begun:
            (logit,) = self._scores(later, site, site + 1)
            ready = merge(ready, level[site - first], later, logit)
        return sources._replace(ready=ready.to(sources.values[0].dtype), ahead=ahead)
