"""ELC-BERT: every block reads a softmax mixture of the embedding and all earlier block outputs.

X_0 is the embedding, X_n the output of block n. With static logits a^n,

    in_n = Σ_{i<n} softmax(a^n)_i X_i

and inside a block, with branches f_1, f_2 behind their pre-norms,

    base                    t = f_1(in),   X_n = t + f_2(t)
    zero                    t = f_1(in),   X_n = t + f_2(in + t)
    normalized              as zero, then (X_n - mean) / deviation over the channels, no gain
    weighted_output         as zero; closes with a softmax mixture of X_0, …, X_N instead of X_N

The input of a block is never added to its output: only the mixtures carry it on. `base` starts with
logit 1 on the newest output, the others uniform.

Source: Charpentier and Samuel 2023, "Not all layers are equally as important: Every Layer Counts
BERT", arXiv:2311.02265, §3; the wiring and the starts are those of the authors' code.
Differs from it: branches are those of the backbone, without the second norm behind an attention; a
block of one branch is X = f_1(in), of more the sums go on as with two; a block whose branches are
all dropped by stochastic depth, which the authors do not use, passes its input on, as does a
dropped first branch of `base`. The first block reads the embedding and needs no logit.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ..mixing import weighted_sum
from ..stream import Context, Past, Site, State, keep_branch, routing, working_dtype
from .block_history import BlockHistory

__all__ = ["ElcBert", "ElcState", "Flavour"]

Flavour = Literal["base", "zero", "normalized", "weighted_output"]


class ElcState(NamedTuple):
    """The state: X_0, …, X_n.

    In an open block also what it read, the sum of the branches so far, and for which samples there
    is one: a mask (B, 1, …), or None for all.
    """

    outputs: tuple[Tensor, ...]
    entry: Tensor | None = None
    partial: Tensor | None = None
    kept: Tensor | None = None


class ElcBert(BlockHistory):
    """Every Layer Counts: static softmax mixtures of block outputs.

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        flavour: One of the four above.
        eps: Added to the variance of `normalized`, greater than 0.

    Raises:
        ValueError: an unknown flavour, or eps ≤ 0.
    """

    unit_axes = {"logits": (None,)}

    uses_context = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        flavour: Flavour = "zero",
        eps: float = 1e-7,
    ) -> None:
        """Make the logits of all mixtures, one row after another."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if flavour not in ("base", "zero", "normalized", "weighted_output"):
            raise ValueError(
                f"flavour must be 'base', 'zero', 'normalized' or 'weighted_output', "
                f"got {flavour!r}"
            )
        if not eps > 0:
            raise ValueError(f"eps must be greater than 0, got {eps}")
        self.flavour: Flavour = flavour
        self.eps = eps
        last = self.ordinal[-1] + 1 + (flavour == "weighted_output")
        ends = {n: n * (n + 1) // 2 - 1 for n in range(2, last + 1)}
        self.rows = {n: slice(end - n, end) for n, end in ends.items()}
        self.logits = None
        if self.rows:
            self.logits = nn.Parameter(torch.empty(self.rows[last].stop))
            exclude_from_decay(self, "logits")
        self.reset_parameters()

    @property
    def sees_every_source(self) -> bool:  # type: ignore[override]
        """Whether the close is a mixture of all outputs, not the last of them."""
        return self.flavour == "weighted_output"

    def views(self, site: int) -> tuple[str, ...]:
        """Every branch reads one mixture."""
        return ()

    def reset_parameters(self) -> None:
        """Zero the logits; in `base` the newest output has 1."""
        if self.logits is None:
            return
        with torch.no_grad():
            self.logits.zero_()
            for row in self.rows.values() if self.flavour == "base" else ():
                self.logits[row.stop - 1] = 1.0

    def weights(self, count: int) -> Tensor:
        """Return the softmax weights of the mixture of X_0, …, X_{count-1}, oldest first.

        Raises:
            ValueError: there is no such mixture.
        """
        if self.logits is None or count not in self.rows:
            raise ValueError(f"count must be one of {sorted(self.rows)}, got {count}")
        row = self.logits[self.rows[count]]
        return row.to(working_dtype(row)).softmax(0)

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Start the history with the embedding."""
        return ElcState((x,))

    def read(self, state: State, site: int) -> Tensor:
        """Return the mixture, or inside a block its input and the branches so far."""
        outputs, entry, partial, _ = ElcState(*state)
        if partial is None or entry is None:
            return self._mixture(outputs[: self.ordinal[site] + 1])
        return partial if self.flavour == "base" else entry + partial

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output to its block, and the block to the history when it ends."""
        outputs, entry, partial, kept = ElcState(*state)
        # Outputs are all that later blocks read, so they keep the embedding's dtype under autocast.
        y = keep_branch(y, context.keep).to(outputs[0].dtype)
        mask = None if context.keep is None else context.keep > 0
        if partial is None or entry is None:
            assert isinstance(context.read, Tensor)
            entry, partial, kept = context.read, y, mask
            if self.flavour == "base" and mask is not None:
                partial, kept = torch.where(mask, y, entry), None
        else:
            partial = partial + y
            kept = None if kept is None or mask is None else kept | mask
        if not self.ending[site]:
            return ElcState(outputs, entry, partial, kept)
        out = partial if kept is None else torch.where(kept, partial, entry)
        return ElcState((*outputs, self._normalized(out) if self.flavour == "normalized" else out))

    def close(self, state: State) -> Tensor:
        """Return the last block output, or with `weighted_output` the mixture of all."""
        outputs = ElcState(*state).outputs
        whole = self.flavour == "weighted_output" and len(outputs) > self.ordinal[-1] + 1
        return self._mixture(outputs) if whole else outputs[-1]

    def _mixture(self, outputs: tuple[Tensor, ...]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        weights = routing(self.weights(len(outputs)))
        return weighted_sum(weights.to(working_dtype(outputs[0])).unbind(), outputs)

    def _normalized(self, x: Tensor) -> Tensor:
        wide = x.to(working_dtype(x))
        wide = wide - wide.mean(self.channel_dim, keepdim=True)
        variance = wide.square().mean(self.channel_dim, keepdim=True)
        return (wide * routing(torch.rsqrt(variance + self.eps))).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the flavour."""
        return f"width={self.width}, sites={len(self.sites)}, flavour={self.flavour!r}"
