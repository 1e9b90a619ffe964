"""Value residual: later attention branches mix their values with those of the first.

With v_l what attention branch l projects its normed read to, v_1 that of the first, and U_l its
attention weights:

    v'_l = λ_1 v_1 + λ_2 v_l,   y_l = W_O U_l v'_l          for l > 1; v'_1 = v_1

The stream itself stays the plain sum. Values of the first layer are linear in the embedding of
their token, which deep streams have lost, and sharing the weights U_l leaves where a branch looks
as it was. Three forms: `identity` fixes λ_1 = λ_2 = 0.5 everywhere, `sparse` fixes λ_1 = 5 and
λ_2 = 1 in the last branches and leaves the others alone, `learned` starts two scalars a branch at
0.5.

Attention branches count in their order, whatever their kind, such as `short_attention`. They hand
their values out by the seam `mix_heads`; a backbone without attention is refused.

Source: Zhou et al. 2025, "Value Residual Learning", arXiv:2410.17897 (Identity-, Sparse- and
Learnable-ResFormer). The λ of `sparse`, in the last three of eight layers, are as summaries of
its experiments give them.
Differs from it: how many branches `sparse` mixes is an option; λ are exempt from weight decay.
"""

# Shape letters: B batch, H heads, T tokens, d head width, D stream width, A attention branches.

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay
from .stream import Context, Heads, Past, Residual, Site, State, keep_branch, routing

__all__ = ["ValueResidual", "ValueState"]


class ValueState(NamedTuple):
    """The stream, and the values (B, H, T, d) of the first attention once it has run."""

    x: Tensor
    first: tuple[Tensor, ...] = ()


class ValueResidual(Residual):
    """Plain addition, with the first attention's values in all others. State: (x, (v_1,)).

    Args:
        width: Stream width D.
        sites: The sites in order, A of them attentions, at least one.
        channel_dim: The axis of D.
        form: `identity`, `sparse` or `learned`.
        layers: How many of the last attentions `sparse` mixes, at least 1; the first never mixes.

    Raises:
        ValueError: no site attends, an unknown form, or layers < 1.
    """

    mixes_heads = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        form: Literal["identity", "sparse", "learned"] = "learned",
        layers: int = 3,
    ) -> None:
        """Count the attentions, and make λ for all but the first."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if form not in ("identity", "sparse", "learned"):
            raise ValueError(f"form must be 'identity', 'sparse' or 'learned', got {form!r}")
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        self.form, self.layers = form, layers
        self.initial = (5.0, 1.0) if form == "sparse" else (0.5, 0.5)
        later = len(self.attentions) - 1
        if form == "learned" and later:
            self.weight = nn.Parameter(torch.empty(later, 2))
            exclude_from_decay(self, "weight")
            self.reset_parameters()
        else:
            self.weight = None

    def reset_parameters(self) -> None:
        """Set every learned λ to 0.5."""
        if self.weight is not None:
            nn.init.constant_(self.weight, 0.5)

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return ValueState(*state).x

    def mix_heads(self, state: State, site: int, key: Tensor, value: Tensor) -> Heads:
        """Return the keys, and λ_1 v_1 + λ_2 v."""
        place, first = self.attentions.index(site), ValueState(*state).first
        if not first or (self.form == "sparse" and place < len(self.attentions) - self.layers):
            return key, value
        if self.weight is None:
            of_first, own = self.initial
            return key, of_first * first[0] + own * value
        of_first, own = routing(self.weight[place - 1]).unbind()
        return key, of_first * first[0] + own * value

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output, and keep the values of the first attention."""
        x, first = ValueState(*state)
        if context.heads is not None and site == self.attentions[0]:
            first = (context.heads[1],)
        return ValueState(x + keep_branch(y, context.keep), first)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start with the embedding, before any attention."""
        return ValueState(x)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return ValueState(*state).x

    def extra_repr(self) -> str:
        """Show the form and λ."""
        several = f", layers={self.layers}" if self.form == "sparse" else ""
        return f"form={self.form!r}, first, own={self.initial}{several}"
