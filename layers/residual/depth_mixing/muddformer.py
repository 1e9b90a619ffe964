"""MUDDFormer: query, key, value and residual each read their own mixture of earlier block outputs.

X_0 is the embedding, X_i the stream after block i, n = i + 1. After block i, for each token:

    A   = W_2 GELU(W_1 X_i / rms(X_i)) + a            (C, n)
    X^c = Σ_j A_cj X_j,   c = 1, …, C

The next block starts from x = X^residual: its attention reads X^query, X^key and X^value, each
behind a norm of its own, its other branches read x, and X_{i+1} = x + Σ of the block's branches.
After the last block one mixture is left, which closes the stream. Nothing bounds A.

W_2 = 0 and a one-hot on the newest source give the plain stream.

Source: Xiao et al. 2025, "MUDDFormer: Breaking Residual Bottlenecks in Transformers via Multiway
Dynamic Dense Connections", arXiv:2502.12170; the start is that of the authors' training code.
Differs from it: a block that no attention opens has two mixtures, for its first branch and for the
residual; hidden widths are not rounded up, and MLPs are not made wider with depth.
"""

# Shape letters: B batch, D width, C mixtures, n sources, K hidden width, ... token or pixel axes.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...decay import exclude_from_decay
from ...units import Units, UnitTrace
from ..mixing import project, rms_norm, weighted_sum
from ..stream import Context, Past, Read, Site, State, keep_branch, routing, working_dtype
from .block_history import VIEWS, BlockHistory

__all__ = ["DynamicMix", "MuddFormer", "MuddState"]

LAST_EXPANSION = 4  # of the hidden width after the last block


class MuddState(NamedTuple):
    """The state: X_0, …, X_i, and the stream of the open block (or X_i)."""

    history: tuple[Tensor, ...]
    x: Tensor


class DynamicMix(nn.Module):
    """C mixtures of n sources, with weights for each token that follow from the newest source.

    Args:
        width: D.
        streams: C, at least 1.
        sources: n, at least 1.
        hidden: K, at least 1.
        channel_dim: The axis of D.

    Shape:
        n tensors (B, …, D) -> C tensors (B, …, D).
    """

    unit_axes = {"first": ("hidden", "in"), "second": (None, "hidden"), "static": (None, None)}

    def __init__(
        self, width: int, streams: int, sources: int, hidden: int, *, channel_dim: int = -1
    ) -> None:
        """Make W_1, W_2 and a."""
        super().__init__()
        self.channel_dim = channel_dim
        self.first = nn.Parameter(torch.empty(hidden, width))
        self.second = nn.Parameter(torch.empty(streams * sources, hidden))
        self.static = nn.Parameter(torch.empty(streams, sources))
        exclude_from_decay(self, "static")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normals of std 1 / √D, zeros, and a one-hot on the newest source."""
        nn.init.normal_(self.first, std=self.first.shape[1] ** -0.5)
        nn.init.zeros_(self.second)
        nn.init.zeros_(self.static)
        with torch.no_grad():
            self.static[:, -1] = 1.0

    def weights(self, newest: Tensor) -> Tensor:
        """Return A (…, C, n) in float32 or the source's wider dtype, with no axis of D."""
        normed = rms_norm(newest, self.channel_dim).movedim(self.channel_dim, -1)
        dynamic = project(F.gelu(project(normed, self.first)), self.second)
        dynamic = dynamic.to(working_dtype(newest)).unflatten(-1, self.static.shape)
        return dynamic + self.static

    def forward(self, sources: Sequence[Tensor]) -> list[Tensor]:
        """Mix."""
        weights = routing(self.weights(sources[-1]))
        return [
            weighted_sum([w.unsqueeze(self.channel_dim) for w in row.unbind(-1)], sources)
            for row in weights.unbind(-2)
        ]


class MuddFormer(BlockHistory):
    """Multiway dynamic dense connections over all blocks of a network or stage.

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        hidden: K of every mixture, at least 1; None is C · n, and four times that after the last
            block.

    Raises:
        ValueError: hidden < 1.
    """

    equals_prenorm_at_init = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        hidden: int | None = None,
    ) -> None:
        """Make a mixture for every block but the first, and one for the close."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden must be at least 1 or None, got {hidden}")
        openings = [i for i in range(len(self.sites)) if self.mixes(i)]
        streams = [len(VIEWS) + 1 if self.views(i) else 2 for i in openings] + [1]
        mixes = []
        for i, count in enumerate(streams):
            sources = i + 2
            last = LAST_EXPANSION if i == len(openings) else 1
            size = hidden or last * count * sources
            mixes.append(DynamicMix(width, count, sources, size, channel_dim=channel_dim))
        self.mix = nn.ModuleList(mixes)

    def reset_parameters(self) -> None:
        """Return every mixture to the plain stream."""
        for mix in self.mix:
            assert isinstance(mix, DynamicMix)
            mix.reset_parameters()

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """Every mixture reads the stream."""
        for mix in self.mix:
            trace.through(mix, x)
        return super().follow_units(trace, x)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start the history with the embedding."""
        return MuddState((x,), x)

    def read(self, state: State, site: int) -> Read:
        """Return the stream, or where a block opens its views and the residual."""
        history, x = MuddState(*state)
        if not self.mixes(site):
            return x
        names = (*(self.views(site) or ("input",)), "residual")
        return dict(zip(names, self.mix[self.ordinal[site] - 1](history), strict=True))

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output to the stream, or to the residual mixture that replaces it."""
        history, x = MuddState(*state)
        if not isinstance(context.read, Tensor):
            x = context.read["residual"]
        x = x + keep_branch(y, context.keep)
        return MuddState((*history, x) if self.ending[site] else history, x)

    def close(self, state: State) -> Tensor:
        """Mix once more after the last block; before it the stream is what there is."""
        history, x = MuddState(*state)
        if len(history) <= len(self.mix):
            return x
        (mixed,) = self.mix[-1](history)
        return mixed

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"width={self.width}, sites={len(self.sites)}"
