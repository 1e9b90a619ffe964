"""DenseFormer: after a block the stream becomes a weighted average of block states.

With X_0 the embedding and X_i what block i makes of the average before it:

    Y_i     = Σ_j α_ij X_j  over j ≤ i with j ≡ i (mod k),   if p divides i;   else Y_i = X_i
    X_{i+1} = Block_{i+1}(Y_i)

k is the dilation, p the period ("k x p"). α is real, not bounded, shared by tokens and channels,
and starts one-hot on the newest state: a fresh network equals `add`.

Source: Pagliardini et al. 2024, "DenseFormer: Enhancing Information Flow in Transformers via Depth
Weighted Averaging", arXiv:2402.02622, eq. 1–2.
Differs from it: α is exempt from weight decay.
"""

# Shape letters: D width, ... token or pixel axes.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ...sizes import check_sizes
from ..mixing import weighted_sum
from ..stream import Context, Past, Site, State, keep_branch, routing, working_dtype
from .block_history import BlockHistory

__all__ = ["DenseFormer", "DenseState"]


class DenseState(NamedTuple):
    """X_0, …, X_i, and the stream of the open block (or Y_i)."""

    history: tuple[Tensor, ...]
    x: Tensor


class DenseFormer(BlockHistory):
    """Depth-weighted averages over all blocks of a network or stage.

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        dilation: k, at least 1.
        period: p, at least 1.

    Raises:
        ValueError: a dilation or period below 1.
    """

    equals_prenorm_at_init = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        dilation: int = 1,
        period: int = 1,
    ) -> None:
        """Make one row of weights for every average."""
        super().__init__(width, sites, channel_dim=channel_dim)
        check_sizes(1, dilation=dilation, period=period)
        self.dilation = dilation
        self.period = period
        rows = {
            str(i): nn.Parameter(torch.empty(len(range(i % dilation, i + 1, dilation))))
            for i in range(period, self.num_blocks + 1, period)
        }
        self.alpha = nn.ParameterDict(rows)
        exclude_from_decay(self.alpha, *rows)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put all weight on the newest state."""
        with torch.no_grad():
            for row in self.alpha.values():
                row.zero_()
                row[-1] = 1.0

    def views(self, site: int) -> tuple[str, ...]:
        """Give every branch one tensor."""
        return ()

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start the history with the embedding."""
        return DenseState((x,), x)

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return DenseState(*state).x

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output; after the last of a block, average."""
        history, x = DenseState(*state)
        x = x + keep_branch(y, context.keep)
        if not self.ending[site]:
            return DenseState(history, x)
        history, block = (*history, x), self.ordinal[site] + 1
        if block % self.period == 0:
            weights = routing(self.alpha[str(block)]).to(working_dtype(x)).unbind()
            x = weighted_sum(weights, history[block % self.dilation :: self.dilation])
        return DenseState(history, x)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return DenseState(*state).x

    def extra_repr(self) -> str:
        """Show k and p."""
        return f"dilation={self.dilation}, period={self.period}"
