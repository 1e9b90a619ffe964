"""Layer-integrated memory: an attention's keys and values mix those of all attentions before it.

With k_i and v_i what attention branch i ≤ l projects its own normed read to, and heads h, g:

    k'_{l,h} = Σ_{i ≤ l} Σ_g R^l_{h,(i,g)} k_{i,g},   v'_{l,h} alike with the same R

Queries and the stream are the plain ones. R is free, real, shared by all tokens, and starts with
one on a head's own key and value: a fresh network equals `add`.

`denseformer`, `dca`, `muddformer` and `attnres` mix streams or branch outputs of width D before a
branch projects them. Here every branch projects its own read once, and later heads mix what was
projected, so a head chooses its depth by itself and queries are untouched. Decoding caches the
mixed pairs, as many as without.

Source: Gerasimov et al. 2025, "You Do Not Fully Utilize Transformer's Representation Capacity",
arXiv:2502.09245, in the released code `StaticRouter`.
Differs from it: weights of earlier attentions start at 0, not as normals of their number; R is
exempt from weight decay; keys are normed, where the backbone norms them, after the mixture.
"""

# Shape letters: B batch, H heads, T tokens, d head width, D stream width, A attention branches.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ..stream import Context, Heads, Past, Residual, Site, State, keep_branch, routing

__all__ = ["LayerMemory", "MemoryState"]


class MemoryState(NamedTuple):
    """The stream, and keys beside values (B, H, T, 2 d) of every attention that has run."""

    x: Tensor
    memory: tuple[Tensor, ...] = ()


class LayerMemory(Residual):
    """Plain addition, with keys and values mixed over depth. State: (x, (kv_1, …)).

    Args:
        width: Stream width D.
        sites: The sites in order, A of them attentions, at least one.
        channel_dim: The axis of D.
        num_heads: H, which a backbone says by itself; None is one weight for each attention, shared
            by its heads.

    Raises:
        ValueError: no site attends, num_heads < 1, or another number of heads at run time.
    """

    mixes_heads = True
    equals_prenorm_at_init = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        num_heads: int | None = None,
    ) -> None:
        """Make one R for each attention but the first."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if num_heads is not None and num_heads < 1:
            raise ValueError(f"num_heads must be at least 1 or None, got {num_heads}")
        self.num_heads = num_heads
        rows = num_heads or 1
        routes = {
            str(place): nn.Parameter(torch.empty(rows, (place + 1) * rows))
            for place in range(1, len(self.attentions))
        }
        self.route = nn.ParameterDict(routes)
        exclude_from_decay(self.route, *routes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let every head take its own key and value alone."""
        with torch.no_grad():
            for route in self.route.values():
                route.zero_()
                nn.init.eye_(route[:, -len(route) :])

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return MemoryState(*state).x

    def mix_heads(self, state: State, site: int, key: Tensor, value: Tensor) -> Heads:
        """Return the mixtures of all keys and values so far."""
        place, memory = self.attentions.index(site), MemoryState(*state).memory
        if self.num_heads is not None and key.shape[1] != self.num_heads:
            raise ValueError(
                f"the attention at site {site} has {key.shape[1]} heads, and LayerMemory was made "
                f"for num_heads={self.num_heads}; give that number"
            )
        if not place or len(memory) != place:
            return key, value
        pairs = torch.stack([*memory, torch.cat([key, value], -1)], 1)  # (B, l, H, T, 2 d)
        route = routing(self.route[str(place)]).to(pairs.dtype)
        if self.num_heads is None:
            mixed = torch.einsum("i,bi...->b...", route[0], pairs)
        else:
            route = route.unflatten(-1, (place + 1, self.num_heads))
            mixed = torch.einsum("hig,big...->bh...", route, pairs)
        found, values = mixed.split([key.shape[-1], value.shape[-1]], -1)
        return found, values

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output, and remember what the branch itself projected."""
        x, memory = MemoryState(*state)
        if context.heads is not None:
            memory = (*memory, torch.cat(context.heads, -1))
        return MemoryState(x + keep_branch(y, context.keep), memory)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start with the embedding, before any attention."""
        return MemoryState(x)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return MemoryState(*state).x

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"attentions={len(self.attentions)}, num_heads={self.num_heads}"
