"""A mechanism of no paper that has all that can be mistaken."""

from collections.abc import Sequence

import torch
from archzoo.layers.decay import exclude_from_decay
from archzoo.layers.residual import Context, Residual, Site, State
from archzoo.layers.residual.stream import keep_branch
from torch import Tensor, nn

__all__ = ["Trial"]


class Trial(Residual):
    """Decayed sums of the embedding and the newest outputs, behind a gate for each channel.

    h_l = g_l ⊙ (v_0 + Σ γ^age v_i)        over the last w outputs, the newest of age 0
    """

    equals_prenorm_at_init = False

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        window: int = 100,
        gamma: float = 0.9,
    ) -> None:
        super().__init__(width, sites, channel_dim=channel_dim)
        self.window, self.gamma = window, gamma
        self.sees_every_source = window >= len(self.sites)
        self.gate = nn.Parameter(torch.empty(len(self.sites) + 1, width))
        exclude_from_decay(self, "gate")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.gate)

    def ages(self, count: int) -> list[float]:
        return [self.gamma**age for age in range(count)]

    def mixture(self, state: State, site: int) -> Tensor:
        first, *rest = state
        newest = rest[::-1][: self.window]
        total = sum((a * v for a, v in zip(self.ages(len(newest)), newest, strict=True)), first)
        return self.along_channels(self.gate[site], first) * total

    def read(self, state: State, site: int) -> Tensor:
        return self.mixture(state, site)

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        return (*state, keep_branch(y, context.keep))

    def close(self, state: State) -> Tensor:
        return self.mixture(state, len(self.sites))
