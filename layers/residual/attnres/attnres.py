"""Attention Residuals: every branch reads a softmax mixture of what came before it.

Sources v_0 (the embedding) and v_1, …, v_{l-1} (branch outputs, never running sums); a learned
pseudo-query w_l and key gain γ_l per site; h_l is the mixture (`mix`) of the sources under the
query γ_l ⊙ w_l:

    h_l = Σ_i a_i v_i,   a = softmax_i ⟨γ_l ⊙ w_l, v_i / rms(v_i)⟩

Block AttnRes sums the outputs inside blocks of S consecutive branches and
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
vector.
"""

# Shape letters: B batch, D width, L branches, S branches of a block, n sources, ... token or pixel
# axes.

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...autocast import without_autocast
from ...decay import exclude_from_decay
from ...units import Units, UnitTrace
from .._fast.look_ahead import look_ahead, ready
from ..mixing import key_statistic
from ..stream import Context, Past, Residual, Site, State, keep_branch, working_dtype
from .mix import Competition, mix
from .sources import Sources

__all__ = ["AttnRes"]


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

    unit_axes = {
        "query": (None, "stream"),
        "gain": (None, "stream"),
        "query_weight": (None, "stream", "stream"),
    }

    block_size: int = 1  # S of the full form

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
            raise ValueError(f"heads={heads} does not divide width={width}; choose a divisor")
        if competition not in ("softmax", "sigmoid"):
            raise ValueError(f"competition must be 'softmax' or 'sigmoid', got {competition!r}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 or None, got {window}")
        if not eps >= 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
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

    @property
    def sees_every_source(self) -> bool:  # type: ignore[override]
        """Whether no window leaves a source out, or the stream is read beside the mixture."""
        return self.additive or self._window_is_wide()

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

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """With heads, channels stay together with those of their softmax."""
        if self.heads > 1:
            x.bind_blocks(self.heads)
        return super().follow_units(trace, x)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start the history with the embedding."""
        return Sources((x,), (None,), x if self.additive else None)

    def read(self, state: State, site: int) -> Tensor:
        """Mix the history with the site's query, unless the write before has done it."""
        sources = Sources(*state)
        found = ready(sources.cache, site)
        if found is not None:
            return found
        # Branches may have written in half precision, under autocast too: a read has the
        # embedding's dtype, and logits and weights are formed in float32.
        with without_autocast(sources.values[0]):
            return self.mixture(sources, site)

    def mixture(self, sources: Sources, site: int) -> Tensor:
        """What a site reads, from the history alone; with the number of sites, the readout."""
        if self.additive and (site == 0 or site == len(self.sites)):
            assert sources.stream is not None
            return sources.stream
        if len(sources.values) == 1 and site == 0:
            return sources.values[0]
        count = self.readable(sources, site)
        mixed = mix(
            sources.values[:count],
            self.query_at(site, sources.values[-1]),
            channel_dim=self.channel_dim,
            eps=self.eps,
            heads=self.heads,
            competition=self.competition,
            alive=sources.alive[:count],
        )
        return mixed if sources.stream is None else sources.stream + mixed

    def readable(self, sources: Sources, site: int) -> int:
        """Count the sources that a site may read: an additive read leaves out the open block."""
        return len(sources.values) - bool(self.additive and site % self.block_size)

    def query_at(self, site: int, newest: Tensor) -> Tensor:
        """The query γ ⊙ w of a site, shaped to broadcast over a source."""
        row = self.row[site]
        query = self.query[row]
        if self.query_weight is None:
            query = query if self.gain is None else query * self.gain[row]
            return self.along_channels(query, newest)
        value = newest.to(working_dtype(newest))
        key = value * key_statistic(value, self.channel_dim, self.eps)
        key = key.movedim(self.channel_dim, -1)
        query = query + F.linear(key, self.query_weight[row].to(key.dtype))
        query = query if self.gain is None else query * self.gain[row]
        return query.movedim(-1, self.channel_dim)

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Append the branch output, or add it to the open block's sum."""
        old = Sources(*state)
        values, alive = old.values, old.alive
        y = keep_branch(y, context.keep)
        mask = None if context.keep is None else context.keep > 0
        if site % self.block_size == 0:
            if self.window is not None and len(values) == self.window + 1:
                values, alive = (values[0], *values[2:]), (alive[0], *alive[2:])
            values, alive = (*values, y), (*alive, mask)
        else:
            either = None if mask is None or alive[-1] is None else alive[-1] | mask
            values, alive = (*values[:-1], self.join(values[-1], y)), (*alive[:-1], either)
        stream = None if old.stream is None else old.stream + y
        sources = Sources(values, alive, stream, old.cache)
        return self.look_ahead(sources, site + 1) or sources._replace(cache=None)

    def look_ahead(self, sources: Sources, site: int) -> Sources | None:
        """Ask the fast path to mix what a site will read; None leaves it to `mixture`."""
        return look_ahead(self, sources, site)

    def join(self, total: Tensor, y: Tensor) -> Tensor:
        """Add a branch output to the open block's sum."""
        return total + y

    def close(self, state: State) -> Tensor:
        """Mix the whole history with the readout query; an additive read closes with the stream."""
        return self.read(state, len(self.sites))

    def handoff(
        self, state: State, fn: Callable[[Tensor], Tensor], closed: Tensor | None = None
    ) -> State:
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
        closed = self.close(state) if closed is None else closed
        return self.open(fn(count * closed))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"width={self.width}, sites={len(self.sites)}, block_size={self.block_size}, "
            f"key_gain={self.gain is not None}"
        )
