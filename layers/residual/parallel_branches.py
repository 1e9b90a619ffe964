"""Parallel branches: groups of consecutive branches read the same base.

    base = acc = x
    acc <- acc + λ_i F_i(base)        for every branch i
    base <- acc                       after every g-th branch

g = 1 is the sequential stack, bit for bit; g = L is one broad layer x + Σ_i λ_i F_i(x), which is
orders 0 and 1 of the sequential stack's `expansion`. g = 2, the default, pairs attention and MLP as
GPT-J and PaLM do (Chowdhery et al. 2022, arXiv:2204.02311, §2), though each keeps its own norm.
Parameters are the same for every g. The truncation is exact to first order only, so trained weights
do not carry over: with ‖F_i‖ ≤ M at x and Lipschitz constants l,

    ‖sequential - parallel‖ ≤ M [((1 + l)^L - 1) / l - L]

Source: Bermeitinger, Hrycej & Handschuh 2023, "Make Deep Networks Shallow Again", arXiv:2309.08414.
Differs from it: any group size, pre-norm branches, and λ. What is reported there is the loss of
small networks trained from scratch, where the sequential form mostly fits the training data better.
"""

# Shape letters: D width, L branches, g branches in a group, ... token or pixel axes.

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ..decay import exclude_from_decay
from .add import Add
from .scaled import Scaled
from .stream import Context, Past, Residual, Site, State

__all__ = ["Parallel", "as_parallel"]


class Parallel(Scaled):
    """Add λ times the branch output, where g branches in turn read one base. State: (base, acc).

    Groups are counted from the first branch of a network or of a CNN's stage; the last may be
    short. The first branch of a later stage reads the base before the shortcut, the others after.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        group: Branches g ≥ 1 of a group; None is all of the network or stage.
        coefficient: Factor of λ.
        exponent: Power of 1/L in λ, at least 0; 1/2 keeps the variance of a large group's sum at
            the start, 1 the size of a sum of aligned branches.
        count: What L counts, `adds` (sites) or `blocks`.
        learned: Whether λ is a parameter.
        per_channel: One λ for each of the D channels; needs `learned`.
        shared: One λ for all sites of a block; needs `learned`.

    Raises:
        ValueError: group < 1, or what `Scaled` refuses.
    """

    keeps_only_the_stream = False
    traces_in_fx = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        group: int | None = 2,
        coefficient: float = 1.0,
        exponent: float = 0.0,
        count: Literal["adds", "blocks"] = "adds",
        learned: bool = False,
        per_channel: bool = False,
        shared: bool = False,
    ) -> None:
        """Fix the groups and λ."""
        super().__init__(
            width,
            sites,
            channel_dim=channel_dim,
            coefficient=coefficient,
            exponent=exponent,
            count=count,
            learned=learned,
            per_channel=per_channel,
            shared=shared,
        )
        if group is not None and group < 1:
            raise ValueError(f"group must be at least 1 or None, got {group}")
        self.group = len(self.sites) if group is None else group
        self.equals_prenorm_at_init = self.group == 1 and self.initial == 1.0
        self.sees_every_source = self.group == 1

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start with the embedding as the base."""
        return (x, x)

    def read(self, state: State, site: int) -> Tensor:
        """Return the base of the group."""
        return state[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add λ times the branch output, and commit at the end of a group."""
        base, acc = state
        (acc,) = super().write((acc,), site, y, context)
        return (acc if (site + 1) % self.group == 0 else base, acc)

    def close(self, state: State) -> Tensor:
        """Return the sum, a short last group included."""
        return state[1]

    def groups(self) -> list[range]:
        """Return the sites of each group."""
        length = len(self.sites)
        return [
            range(first, min(first + self.group, length)) for first in range(0, length, self.group)
        ]

    def extra_repr(self) -> str:
        """Show the groups and λ."""
        return f"group={self.group}, {super().extra_repr()}"


def as_parallel(residual: Residual, group: int | None = None) -> Parallel:
    """Return the parallel form of an additive residual, with the same λ (parameters are shared).

    Args:
        residual: An `Add`, `Scaled` or `Parallel`.
        group: Branches of a group; None is all.

    Raises:
        ValueError: another residual, or group < 1.
    """
    if type(residual) not in (Add, Scaled, Parallel):
        raise ValueError(
            f"{type(residual).__name__} is not additive: only Add, Scaled with its presets, and "
            f"Parallel write x + λ y; build the model with residual='add'"
        )
    dim = residual.channel_dim
    made = Parallel(residual.width, residual.sites, channel_dim=dim, group=group)
    if isinstance(residual, Scaled):
        made.initial, made.row, made.scale = residual.initial, residual.row, residual.scale
        made.equals_prenorm_at_init &= made.initial == 1.0
        if made.scale is not None:
            exclude_from_decay(made, "scale")
    return made.train(residual.training)
