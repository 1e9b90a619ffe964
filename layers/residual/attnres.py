"""Attention Residuals: every branch reads a softmax mixture of what came before it.

Sources v_0 (the embedding) and v_1, …, v_{l-1} (branch outputs, never running sums); a learned
pseudo-query w_l and key gain γ_l per site; h_l is the depth mix (`depth_mix`) of the sources under
the query γ_l ⊙ w_l. Block AttnRes sums the outputs inside blocks of S consecutive branches and
mixes the block sums: inside a block the running sum is the last source, and the next block starts
a new one. S = 1 is the full form, bit for bit.

With all queries zero the mixture is the mean of the sources, which is the plain stream divided by
their number: a pre-norm network starts equal to `add`, up to the norm's epsilon.

Source: Kimi Team 2026, "Attention Residuals", arXiv:2603.15031, eq. 1–6. The variants: sigmoid and
window are in its table 4, as is an input-dependent query, whose input it leaves open; heads are
per-head depth softmax, arXiv:2607.27230; `additive` is the read of Luo et al. 2026, "Delta
Attention Residuals"; `shared_query` is one query for each kind of branch.
Differs from it: block size is counted in branches (attention and MLP each one), any S ≥ 1 is
allowed, and a branch dropped by stochastic depth leaves the softmax instead of voting as a zero
vector. A write already mixes what the next site reads: readers are known in advance, and so the
gradient of a source can grow in place from reader to reader (`depth_autograd`).
"""

# Shape letters: B batch, D width, L branches, Q queries, H heads, n sources, ... token or pixel
# axes.

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..decay import exclude_from_decay
from .depth_autograd import (
    combine,
    fused_mix,
    fused_phase_one,
    fused_phase_two,
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
from .fast_path import kernel_takes, records_references
from .stream import Context, Past, Residual, Site, State, keep_branch, working_dtype

__all__ = ["AttnRes", "BlockAttnRes", "Sources"]


class Sources(NamedTuple):
    """The state: what may be read, for which samples, and what the next site will read.

    `values` holds n tensors of one shape; `alive` holds, for each, None or a mask (B, 1, …) that
    is False where stochastic depth dropped everything in it. `stream` is the plain sum, kept for
    additive reads only. `ready` is the read of site `site`, or None where it is still to be mixed.
    `scores` holds the logits of the finished sources under the queries to come, and `ahead` what
    the queries of the open block, from a site on, make of the finished sources.
    """

    values: tuple[Tensor, ...]
    alive: tuple[Tensor | None, ...]
    stream: Tensor | None = None
    ready: Tensor | None = None
    site: int = 0
    scores: tuple[tuple[Tensor, ...], ...] = ()
    ahead: tuple[Sequence[Tensor], Tensor, int] | None = None


class AttnRes(Residual):
    """Full Attention Residuals over all branches of a network or stage.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        key_gain: Whether keys carry a learned gain γ (L + 1, D), as in the paper.
        heads: Groups of channels with a depth softmax of their own; divides D.
        competition: `softmax` over the sources, or `sigmoid` of each on its own.
        window: Only the embedding and the last this many sources are kept, at least 1; None keeps
            all.
        input_dependent_query: Whether w_l becomes w_l + W_l v / rms(v), with v the newest source
            and W_l (D, D), one for each site, starting at zero.
        additive: Whether the mixture is added to the plain stream instead of replacing it. Its
            sources exclude the open block, the first site reads the stream alone, and so does
            what comes after the last.
        shared_query: Whether the sites of one kind share a query; the readout keeps its own.
        eps: Added to the mean square of a key; the paper gives none.

    Raises:
        ValueError: heads that do not divide the width, a window below 1, or an unknown competition.
    """

    block_size = 1

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        key_gain: bool = True,
        heads: int = 1,
        competition: Competition = "softmax",
        window: int | None = None,
        input_dependent_query: bool = False,
        additive: bool = False,
        shared_query: bool = False,
        eps: float = 1e-6,
    ) -> None:
        """Make one query per site and one for the readout, all zero."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if heads < 1 or width % heads:
            raise ValueError(f"heads={heads} does not divide width={width}")
        if competition not in ("softmax", "sigmoid"):
            raise ValueError(f"competition must be 'softmax' or 'sigmoid', got {competition!r}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 or None, got {window}")
        self.heads = heads
        self.competition: Competition = competition
        self.window = window
        self.additive = additive
        self.eps = eps
        kinds = list(dict.fromkeys(site.kind for site in self.sites))
        rows = [kinds.index(site.kind) for site in self.sites] if shared_query else None
        self.row = [*range(len(self.sites) + 1)] if rows is None else [*rows, len(kinds)]
        count = max(self.row) + 1
        self.query = nn.Parameter(torch.empty(count, width))
        exclude_from_decay(self, "query")
        self.gain = self.query_weight = None
        if key_gain:
            self.gain = nn.Parameter(torch.empty(count, width))
            exclude_from_decay(self, "gain")
        if input_dependent_query:
            self.query_weight = nn.Parameter(torch.empty(count, width, width))
        self.reset_parameters()

    @property
    def equals_prenorm_at_init(self) -> bool:  # type: ignore[override]
        """Whether nothing is left out of a read: no window, and no open block beside the stream."""
        return self._window_is_wide() and not (self.additive and self.block_size > 1)

    def _window_is_wide(self) -> bool:
        blocks = -(-len(self.sites) // self.block_size)
        return self.window is None or self.window >= blocks

    def reset_parameters(self) -> None:
        """Zero the queries, which starts every mixture at the mean, and set the gains to one."""
        nn.init.zeros_(self.query)
        if self.gain is not None:
            nn.init.ones_(self.gain)
        if self.query_weight is not None:
            nn.init.zeros_(self.query_weight)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start the history with the embedding."""
        return Sources((x,), (None,), x if self.additive else None)

    def read(self, state: State, site: int) -> Tensor:
        """Mix the history with the site's query."""
        sources = Sources(*state)
        if sources.ready is not None and sources.site == site:
            return sources.ready
        return self._mix(sources, site)

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Append the branch output, or add it to the open block's sum, and look one site ahead."""
        old = Sources(*state)
        values, alive, scores = old.values, old.alive, old.scores
        y = keep_branch(y, context.keep)
        mask = None if context.keep is None else context.keep > 0
        if site % self.block_size == 0:
            if self.window is not None and len(values) == self.window + 1:
                values, alive = (values[0], *values[2:]), (alive[0], *alive[2:])
                scores = (*scores[:1], *scores[2:])
            values, alive = (*values, y), (*alive, mask)
        else:
            either = None if mask is None or alive[-1] is None else alive[-1] | mask
            values, alive = (*values[:-1], values[-1] + y), (*alive[:-1], either)
        stream = None if old.stream is None else old.stream + y
        sources = Sources(values, alive, stream, None, site + 1, scores, old.ahead)
        return self._look_ahead(sources) if records_references() else sources

    def close(self, state: State) -> Tensor:
        """Mix the whole history with the readout query; an additive read closes with the stream."""
        return self.read(state, len(self.sites))

    def handoff(self, state: State, fn: Callable[[Tensor], Tensor]) -> State:
        """Restart the next stage from fn(n · readout).

        The factor n, the number of sources alive, makes the hand-off the plain sum at zero
        queries; without it the old stage would enter the new one n times too small.
        """
        sources = Sources(*state)
        if self.additive:
            count = 1.0
        elif self.competition == "sigmoid":
            count = 2.0
        else:
            dtype = sources.values[0].dtype
            count = sum(1.0 if mask is None else mask.to(dtype) for mask in sources.alive)
        return self.open(fn(count * self.close(state)))

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
        rows = self.row[first:last]
        return self.query[rows] if self.gain is None else self.query[rows] * self.gain[rows]

    def _readable(self, sources: Sources, site: int) -> int:
        """Count the sources that a site may read: an additive read leaves out the open block."""
        return len(sources.values) - bool(self.additive and site % self.block_size)

    def _mix(self, sources: Sources, site: int) -> Tensor:
        """The definition: what a site reads, from the history alone."""
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

    def _look_ahead(self, sources: Sources) -> Sources:
        """Mix what the next site reads, with a gradient that keeps references only."""
        site = sources.site
        if self.additive and site == len(self.sites):
            return sources
        count = self._readable(sources, site)
        values, alive = sources.values[:count], sources.alive[:count]
        simple = self.heads == 1 and self.competition == "softmax" and self.channel_dim == -1
        simple = simple and self.query_weight is None
        kernel = simple and kernel_takes("attnres", *values)
        # What a block's first site reads, its later sites must read too.
        whole = self.window is None and not self.additive and all(mask is None for mask in alive)
        if simple and whole and self.block_size > 1 and not torch.is_grad_enabled():
            return self._two_phases(sources, kernel)
        open_sum = bool(site % self.block_size) and count == len(sources.values)
        if kernel:
            query = self._query(site, values[-1])
            mixed, values = fused_mix(values, query, self.eps, alive, open_sum)
        else:
            sources = self._push_scores(sources)
            logits = self._logits(sources, site, count)
            weights = compete(logits, self.competition)
            mixed, values = combine(weights, values, self.channel_dim, open_sum)
        if sources.stream is not None:
            mixed = sources.stream + mixed
        return sources._replace(values=(*values, *sources.values[count:]), ready=mixed)

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
            if kernel:
                phase = fused_phase_one(finished, self._queries(site, last), self.eps)
            else:
                logits = [torch.stack(self._scores(value, site, last)) for value in finished]
                phase = phase_one(finished, torch.stack(logits, 1))
            ahead = (*phase, site)
        mixed, level, first = ahead
        ready, later = mixed[site - first], sources.values[-1]
        if begun and kernel:
            query = self._query(site, later)
            ready = fused_phase_two(ready, level[site - first], later, query, self.eps)
        elif begun:
            (logit,) = self._scores(later, site, site + 1)
            ready = merge(ready, level[site - first], later, logit)
        return sources._replace(ready=ready.to(later.dtype), ahead=ahead)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"width={self.width}, sites={len(self.sites)}, block_size={self.block_size}, "
            f"key_gain={self.gain is not None}"
        )


class BlockAttnRes(AttnRes):
    """Block Attention Residuals: the history holds sums over blocks of branches.

    Give at most one of the three sizes.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        block_size: Branches per block S ≥ 1; the last block may be short. Default 4.
        num_blocks: The number of blocks N instead: S = ceil(L / N).
        block_layers: Backbone blocks (attention + MLP) per block instead.
        key_gain: As in `AttnRes`, like all that follow; `window` counts blocks.
        heads: As above.
        competition: As above.
        window: As above.
        input_dependent_query: As above.
        additive: As above.
        shared_query: As above.
        eps: As above.

    Raises:
        ValueError: a size below 1, or more than one of the three.
    """

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        block_size: int | None = None,
        num_blocks: int | None = None,
        block_layers: int | None = None,
        key_gain: bool = True,
        heads: int = 1,
        competition: Competition = "softmax",
        window: int | None = None,
        input_dependent_query: bool = False,
        additive: bool = False,
        shared_query: bool = False,
        eps: float = 1e-6,
    ) -> None:
        """Turn the given size into branches per block."""
        super().__init__(
            width,
            sites,
            channel_dim=channel_dim,
            key_gain=key_gain,
            heads=heads,
            competition=competition,
            window=window,
            input_dependent_query=input_dependent_query,
            additive=additive,
            shared_query=shared_query,
            eps=eps,
        )
        sizes = {"block_size": block_size, "num_blocks": num_blocks, "block_layers": block_layers}
        given = {name: size for name, size in sizes.items() if size is not None}
        if len(given) > 1:
            raise ValueError(f"give one of block_size, num_blocks, block_layers, got {given}")
        for name, size in given.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        length = len(self.sites)
        if num_blocks is not None:
            self.block_size = -(-length // num_blocks)
        elif block_layers is not None:
            self.block_size = block_layers * max(1, length // self.num_blocks)
        else:
            self.block_size = block_size or 4
