"""Attention Residuals: every branch reads a softmax mixture of what came before it.

Sources v_0 (the embedding) and v_1, …, v_{l-1} (branch outputs, never running sums); a learned
pseudo-query w_l and key gain γ_l per site; per token, over depth only:

    r_i = (mean_D(v_i²) + ε)^(-1/2)
    s_i = r_i · ⟨γ_l ⊙ w_l, v_i⟩
    a   = softmax_i(s_i)
    h_l = Σ_i a_i v_i

Keys are normalised, values are not; there is no 1/√D. Block AttnRes sums the outputs inside blocks
of S consecutive branches and mixes the block sums: inside a block the running sum is the last
source, and the next block starts a new one. S = 1 is the full form, bit for bit.

With all queries zero the mixture is the mean of the sources, which is the plain stream divided by
their number: a pre-norm network starts equal to `add`, up to the norm's epsilon.

Source: Kimi Team 2026, "Attention Residuals", arXiv:2603.15031, eq. 1–6.
Differs from it: block size is counted in branches (attention and MLP each one), any S ≥ 1 is
allowed, and a branch dropped by stochastic depth leaves the softmax instead of voting as a zero
vector. This is the plain form: it keeps O(L²) tensors for the backward pass.
"""

# Shape letters: B batch, D width, L branches, n sources, ... token or pixel axes.

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay
from .stream import Context, Past, Residual, Site, State, keep_branch, working_dtype

__all__ = ["AttnRes", "BlockAttnRes", "Sources", "depth_mix", "depth_weights"]


class Sources(NamedTuple):
    """The state: what may be read, and for which samples.

    `values` holds n tensors of one shape; `alive` holds, for each, None or a mask (B, 1, …) that
    is False where stochastic depth dropped everything in it.
    """

    values: tuple[Tensor, ...]
    alive: tuple[Tensor | None, ...]


def depth_weights(
    sources: Sequence[Tensor],
    query: Tensor,
    *,
    channel_dim: int = -1,
    eps: float = 1e-6,
    alive: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return the softmax over depth, in float32 or the sources' wider dtype.

    Args:
        sources: n tensors of one shape, D on axis `channel_dim`.
        query: γ ⊙ w, broadcastable over a source, D long.
        channel_dim: The axis of D.
        eps: Added to the mean square of a key.
        alive: For each source None, or a mask with size 1 on the axis of D; False takes the
            source out of the softmax. At least one source must be alive for every sample.

    Returns:
        Weights (n, …) with size 1 on the axis of D; non-negative, summing to 1 over n.
    """
    dtype = working_dtype(sources[0])
    query = query.to(dtype)
    logits = []
    for i, value in enumerate(sources):
        value = value.to(dtype)
        statistic = torch.rsqrt(value.square().mean(channel_dim, keepdim=True) + eps)
        logit = statistic * (value * query).sum(channel_dim, keepdim=True)
        mask = None if alive is None else alive[i]
        logits.append(logit if mask is None else logit.masked_fill(~mask, -torch.inf))
    return torch.stack(logits).softmax(0)


def depth_mix(
    sources: Sequence[Tensor],
    query: Tensor,
    *,
    channel_dim: int = -1,
    eps: float = 1e-6,
    alive: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Mix the raw sources by their depth weights; arguments as in `depth_weights`.

    Returns:
        Σ_i a_i v_i in the shape and dtype of a source.
    """
    if len(sources) == 1:
        return sources[0]
    weights = depth_weights(sources, query, channel_dim=channel_dim, eps=eps, alive=alive)
    mixed = weights[0] * sources[0]
    for weight, value in zip(weights[1:], sources[1:], strict=True):
        mixed = mixed + weight * value
    return mixed.to(sources[0].dtype)


class AttnRes(Residual):
    """Full Attention Residuals over all branches of a network or stage.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        key_gain: Whether keys carry a learned gain γ (L + 1, D), as in the paper.
        eps: Added to the mean square of a key; the paper gives none.
    """

    equals_prenorm_at_init = True
    block_size = 1

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        key_gain: bool = True,
        eps: float = 1e-6,
    ) -> None:
        """Make one query per site and one for the readout, all zero."""
        super().__init__(width, sites, channel_dim=channel_dim)
        self.eps = eps
        self.query = nn.Parameter(torch.empty(len(self.sites) + 1, width))
        exclude_from_decay(self, "query")
        if key_gain:
            self.gain = nn.Parameter(torch.empty(len(self.sites) + 1, width))
            exclude_from_decay(self, "gain")
        else:
            self.gain = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero the queries, which starts every mixture at the mean, and set the gains to one."""
        nn.init.zeros_(self.query)
        if self.gain is not None:
            nn.init.ones_(self.gain)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start the history with the embedding."""
        return Sources((x,), (None,))

    def read(self, state: State, site: int) -> Tensor:
        """Mix the history with the site's query."""
        values, alive = state
        query = self.query[site] if self.gain is None else self.query[site] * self.gain[site]
        return depth_mix(
            values,
            self.along_channels(query, values[0]),
            channel_dim=self.channel_dim,
            eps=self.eps,
            alive=alive,
        )

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Append the branch output, or add it to the open block's sum."""
        values, alive = state
        y = keep_branch(y, context.keep)
        mask = None if context.keep is None else context.keep > 0
        if site % self.block_size == 0:
            return Sources((*values, y), (*alive, mask))
        either = None if mask is None or alive[-1] is None else alive[-1] | mask
        return Sources((*values[:-1], values[-1] + y), (*alive[:-1], either))

    def close(self, state: State) -> Tensor:
        """Mix the whole history with the readout query."""
        return self.read(state, len(self.sites))

    def handoff(self, state: State, fn: Callable[[Tensor], Tensor]) -> State:
        """Restart the next stage from fn(n · readout).

        The factor n, the number of sources alive, makes the hand-off the plain sum at zero
        queries; without it the old stage would enter the new one n times too small.
        """
        values, alive = state
        count = sum(1 if mask is None else mask.to(values[0].dtype) for mask in alive)
        return self.open(fn(count * self.close(state)))

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
        key_gain: As in `AttnRes`.
        eps: As in `AttnRes`.

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
        eps: float = 1e-6,
    ) -> None:
        """Turn the given size into branches per block."""
        super().__init__(width, sites, channel_dim=channel_dim, key_gain=key_gain, eps=eps)
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
