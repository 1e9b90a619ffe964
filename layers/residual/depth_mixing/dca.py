"""DeepCrossAttention: query, key and value of a block read generalised sums of earlier outputs.

g_0 is the embedding, g_i the sum of the branch outputs of block i, without what they were added to.
A generalised residual (GRN) sums the stack with a weight for each channel and one for each token:

    GRN(G) = Σ_i (b_i + ReLU⟨w, g_i / rms(g_i)⟩) ⊙ g_i

Three of them make the query, key and value that open a block. Inside the block the branches are
added to the query's sum, and one last GRN closes the stack. b = 1 and w = 0 give the plain stream.

Source: Heddes et al. 2025, "DeepCrossAttention: Supercharging Transformer Residual Connections",
arXiv:2502.06785, GRN-v3; k-DCA is `keep`.
Differs from it: the first block reads the embedding itself, whose GRN would only rescale it; `keep`
drops the middle of the stack, which the paper pools; the ReLU's slope at 0 is taken as 1, since
with the usual 0 the start w = 0 would never be left; a block that no attention opens has one GRN.
"""

# Shape letters: B batch, D width, C sums, n sources, ... token or pixel axes.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ...units import Units, UnitTrace
from ..mixing import project, rms_norm, weighted_sum
from ..stream import Context, Past, Read, Site, State, keep_branch, routing, working_dtype
from .block_history import VIEWS, BlockHistory

__all__ = ["DeepCrossAttention", "DeepCrossState", "GeneralizedResidual"]


class DeepCrossState(NamedTuple):
    """The state: the stack, and the number of blocks done.

    In an open block also the query's sum, and the sum of the outputs so far.
    """

    sources: tuple[Tensor, ...]
    base: Tensor | None = None
    delta: Tensor | None = None
    done: int = 0


class GeneralizedResidual(nn.Module):
    """C weighted sums of n sources: GRN-v3.

    Args:
        width: D.
        streams: C, at least 1.
        sources: n, at least 1.
        channel_dim: The axis of D.

    Shape:
        n tensors (B, …, D) -> C tensors (B, …, D).
    """

    unit_axes = {"static": (None, None, "in"), "query": (None, "in")}

    def __init__(self, width: int, streams: int, sources: int, *, channel_dim: int = -1) -> None:
        """Make b and w."""
        super().__init__()
        self.channel_dim = channel_dim
        self.static = nn.Parameter(torch.empty(streams, sources, width))
        self.query = nn.Parameter(torch.empty(streams, width))
        exclude_from_decay(self, "static", "query")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the plain sum."""
        nn.init.ones_(self.static)
        nn.init.zeros_(self.query)

    def weights(self, sources: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return, for each sum and source, a weight in the shape of a source."""
        dtype = working_dtype(sources[0])
        axes = [1] * (sources[0].dim() - 2) if self.channel_dim == 1 else []
        static = self.static.to(dtype).view(*self.static.shape, *axes)
        logits = [
            project(rms_norm(g.to(dtype), self.channel_dim), self.query, self.channel_dim)
            for g in sources
        ]
        # A ReLU whose slope at 0 is 1.
        dynamic = [s.masked_fill(s < 0, 0.0).split(1, self.channel_dim) for s in logits]
        return [
            [b + part[c] for b, part in zip(row, dynamic, strict=True)]
            for c, row in enumerate(static)
        ]

    def forward(self, sources: Sequence[Tensor]) -> list[Tensor]:
        """Sum."""
        return [
            weighted_sum([routing(weight) for weight in row], sources)
            for row in self.weights(sources)
        ]


class DeepCrossAttention(BlockHistory):
    """DeepCrossAttention over all blocks of a network or stage.

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        keep: Only the first and the last this many sources are kept, at least 1; None keeps all.
            A fresh network that drops sources does not equal `add`.

    Raises:
        ValueError: keep < 1.
    """

    def __init__(
        self, width: int, sites: Sequence[Site], *, channel_dim: int = -1, keep: int | None = None
    ) -> None:
        """Make the sums of every block but the first, and one for the close."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1 or None, got {keep}")
        self.keep = keep
        openings = [i for i in range(len(self.sites)) if self.mixes(i)]
        streams = [len(VIEWS) if self.views(i) else 1 for i in openings] + [1]
        limit = self.limit
        sizes = [i + 2 if limit is None else min(limit, i + 2) for i in range(len(streams))]
        self.mix = nn.ModuleList(
            GeneralizedResidual(width, count, size, channel_dim=channel_dim)
            for count, size in zip(streams, sizes, strict=True)
        )

    @property
    def limit(self) -> int | None:
        """The most sources a sum may have."""
        return None if self.keep is None else 2 * self.keep

    @property
    def equals_prenorm_at_init(self) -> bool:  # type: ignore[override]
        """Whether no source is dropped."""
        return self.limit is None or self.limit > len(self.mix)

    @property
    def sees_every_source(self) -> bool:  # type: ignore[override]
        """Whether no source is dropped."""
        return self.equals_prenorm_at_init

    def reset_parameters(self) -> None:
        """Return every sum to the plain one."""
        for mix in self.mix:
            assert isinstance(mix, GeneralizedResidual)
            mix.reset_parameters()

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """Every mixture reads the stream."""
        for mix in self.mix:
            trace.through(mix, x)
        return super().follow_units(trace, x)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start the stack with the embedding."""
        return DeepCrossState((x,))

    def read(self, state: State, site: int) -> Read:
        """Return the open block's stream, or where a block opens the sums of the stack."""
        sources, base, delta, done = DeepCrossState(*state)
        if base is not None and delta is not None:
            return base + delta
        if not self.mixes(site):
            return sources[0]
        sums = self.mix[done - 1](sources)
        views = self.views(site)
        return dict(zip(views, sums, strict=True)) if views else sums[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output to its block, and the block to the stack when it ends."""
        sources, base, delta, done = DeepCrossState(*state)
        y = keep_branch(y, context.keep)
        if self.mixes(site):
            base = context.read if isinstance(context.read, Tensor) else context.read["query"]
        elif base is None:
            base = sources[0]
        delta = y if delta is None else delta + y
        if not self.ending[site]:
            return DeepCrossState(sources, base, delta, done)
        sources = (*sources, delta)
        if self.keep is not None and len(sources) > 2 * self.keep:
            sources = (*sources[: self.keep], *sources[self.keep + 1 :])
        return DeepCrossState(sources, done=done + 1)

    def close(self, state: State) -> Tensor:
        """Sum the stack after the last block; before it, the plain stream is what there is."""
        sources, base, delta, done = DeepCrossState(*state)
        if base is not None and delta is not None:
            return base + delta
        if done < len(self.mix):
            return sum(sources[1:], sources[0])
        (mixed,) = self.mix[-1](sources)
        return mixed

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"width={self.width}, sites={len(self.sites)}, keep={self.keep}"
