"""Block Attention Residuals: depth attention over sums of consecutive branch outputs.

With S branches in a block, b_0 the embedding and b_n the sum of block n's outputs, the first site
of block n reads a mixture of b_0, …, b_{n-1}; the i-th also sees the sum of the block's first i − 1
outputs; the readout sees every block, a short last one included.

Source: Kimi Team 2026, "Attention Residuals", arXiv:2603.15031, eq. 5–6.
Differs from it: as in `attnres`; the paper's listing counts S in branches, third-party ports in
transformer layers, which is `block_layers` here.
"""

# Shape letters: D width, L branches, S branches of a block, N blocks.

from collections.abc import Sequence

from ...sizes import check_sizes
from ..stream import Site
from .attnres import AttnRes
from .mix import Competition

__all__ = ["BlockAttnRes"]


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
        check_sizes(1, **given)
        length = len(self.sites)
        if num_blocks is not None:
            self.block_size = -(-length // num_blocks)
        elif block_layers is not None:
            self.block_size = block_layers * max(1, length // self.num_blocks)
        else:
            self.block_size = block_size or 4
