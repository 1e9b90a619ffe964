"""Deep Delta Learning: a branch's output is a direction along which the state is rewritten.

Per site, from the normed input c of the branch (`paper`), with h = F(c) the branch output:

    β  = 2 sigmoid(⟨w_β, c⟩ + b_β)         or 2 sigmoid(⟨w_2, tanh(W_1 c)⟩ + b_β)
    v  = W_v c
    X' = X + β k (v − kᵀX)ᵀ,  k = h / √(‖h‖² + ε²)          (`write`)

The state has m columns (`columns`); m = 1 is the ordinary stream.

Three parameterisations are published. `paper` is above. `repo` is the authors' released code:
v = 4 sigmoid(W_v x + b_v) of the input x before its norm. `v1` is the first preprint, which shows
no results with it: direction and gate from the pooled state, v from the branch output.

A branch's magnitude is discarded, and at h = 0 the direction has a gradient of order 1/ε: branches
whose last weight starts at zero are refused.

Source: Zhang et al. 2026, "Deep Delta Learning", arXiv:2601.00417.
Differs from it: for images channels are D and every pixel is a token; `v1` leaves the map from the
branch output to v open, here it is linear, and writes ε outside the root, here it is inside.
"""

# Shape letters: D width, m columns, L branches, ... token or pixel axes.

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...units import Label
from ..stream import Context, Site, State, keep_branch, working_dtype
from .columns import Columns, DeltaState, one_of
from .write import DeltaMode, delta_write

__all__ = ["Delta", "delta_cc"]

SQUASH = 4.0  # the released code's targets lie in (0, 4)


class Delta(Columns):
    """Deep Delta Learning over all branches of a network or stage.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        value_channels: m, the columns of the state, at least 1.
        expand: How m > 1 columns are made: `repeat`, or `convolution` over the tokens, which
            starts as `repeat`.
        compress: How m > 1 columns are read: over `channels` or over `tokens`.
        cc_form: A channel compressor as one free matrix (`paper`), or as the released code's
            padded convolution of m taps and read vector, which collapses to such a matrix.
        parameterisation: `paper`, `repo` or `v1`, as above.
        gate_hidden: Width of a two-layer gate; None is the linear gate.
        mode: `full`; `write_only` never erases, the matched control; `erase_only` never writes.
        initial_beta: β of a fresh network, in (0, 2) without the ends, where a gate cannot learn.
        frozen_beta: A β in [0, 2] in place of the gate.
        eps: ε of the direction.

    Shape:
        As in `Residual`. `tokens` and `convolution` need tokens (B, T, D).

    Raises:
        ValueError: a number out of range, an unknown choice, a look along the tokens of images, or
            `v1` in `erase_only`, which would leave the branches without effect.
    """

    needs_nonzero_branches = True
    uses_context = True

    gate: nn.Parameter | None
    gate_bias: nn.Parameter | None
    gate_hidden: nn.Parameter | None
    value: nn.Parameter | None
    value_bias: nn.Parameter | None
    direction_in: nn.Parameter | None
    direction_out: nn.Parameter | None

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        value_channels: int = 1,
        expand: Literal["repeat", "convolution"] = "repeat",
        compress: Literal["channels", "tokens"] = "channels",
        cc_form: Literal["paper", "repo"] = "paper",
        parameterisation: Literal["paper", "repo", "v1"] = "paper",
        gate_hidden: int | None = None,
        mode: DeltaMode = "full",
        initial_beta: float = 1.0,
        frozen_beta: float | None = None,
        eps: float = 1e-5,
    ) -> None:
        """Make gates, targets and compressors."""
        super().__init__(
            width,
            sites,
            channel_dim=channel_dim,
            value_channels=value_channels,
            expand=expand,
            compress=compress,
            cc_form=cc_form,
        )
        one_of("parameterisation", parameterisation, ("paper", "repo", "v1"))
        one_of("mode", mode, ("full", "write_only", "erase_only"))
        if gate_hidden is not None and gate_hidden < 1:
            raise ValueError(f"gate_hidden must be at least 1 or None, got {gate_hidden}")
        if not 0.0 < initial_beta < 2.0:
            raise ValueError(f"initial_beta must lie inside (0, 2), got {initial_beta}")
        if frozen_beta is not None and not 0.0 <= frozen_beta <= 2.0:
            raise ValueError(f"frozen_beta must lie in [0, 2], got {frozen_beta}")
        if parameterisation == "v1" and mode == "erase_only":
            raise ValueError(
                "mode='erase_only' has no use for the branch output, which parameterisation='v1' "
                "takes as the target alone; choose another of either"
            )
        self.parameterisation = parameterisation
        self.mode: DeltaMode = mode
        self.initial_beta, self.frozen_beta, self.eps = initial_beta, frozen_beta, eps
        self.records: list[dict[str, Tensor]] | None = None
        length, m = len(self.sites), value_channels
        gates, writes, v1 = frozen_beta is None, mode != "erase_only", parameterisation == "v1"
        hidden = (length, gate_hidden, width) if gates and gate_hidden is not None else None
        biased = writes and parameterisation != "paper"
        self.make("gate", (length, gate_hidden or width) if gates else None)
        self.make("gate_bias", (length,) if gates else None)
        self.make("value", (length, m, width) if writes else None)
        self.make("value_bias", (length, m) if biased else None)
        # Whole matrices decay, as a branch's weights do; the heads are vectors.
        self.make("gate_hidden", hidden, decays=True)
        self.make("direction_in", (length, width, width) if v1 else None, decays=True)
        self.make("direction_out", (length, width, width) if v1 else None, decays=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small normals for heads, β at its initial value, compressors at the mean of columns."""
        self.reset_columns()
        heads = (self.gate, self.gate_hidden, self.value, self.direction_in, self.direction_out)
        for parameter in heads:
            if parameter is not None:
                nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5)
        if self.gate_bias is not None:
            nn.init.constant_(self.gate_bias, math.log(self.initial_beta / (2 - self.initial_beta)))
        if self.value_bias is not None:
            bound = self.width**-0.5
            nn.init.uniform_(self.value_bias, -bound, bound)

    @property
    def unit_axes(  # type: ignore[override]
        self,
    ) -> Mapping[str, tuple[Label, ...]]:
        """Heads read the stream; hidden widths, which a site has for itself, stay as they are."""
        return {
            **super().unit_axes,
            "gate": (None, "stream" if self.gate_hidden is None else None),
            "gate_bias": (None,),
            "value": (None, None, "stream"),
            "value_bias": (None, None),
            "gate_hidden": (None, None, "stream"),
            "direction_in": (None, None, "stream"),
            "direction_out": (None, "stream", None),
        }

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Rewrite the state along the branch output."""
        columns, past = DeltaState(*state)
        beta, value, direction = self._heads(columns, site, y, context)
        if self.records is not None:
            self._record(columns, direction, beta, value)
        columns = delta_write(
            columns,
            direction,
            keep_branch(beta, context.keep),
            value,
            mode=self.mode,
            eps=self.eps,
            channel_dim=self.channel_dim,
        )
        return DeltaState(columns, past)

    @contextlib.contextmanager
    def audit(self) -> Iterator[list[dict[str, Tensor]]]:
        """Collect, write by write, what the gates do; every entry is a mean over tokens.

        Yields a list that fills with mappings: `beta`, `discrepancy_before` ‖r − v‖,
        `discrepancy_after`, and `branch_norm` ‖h‖, which the update discards. Drop-path masks,
        which come after the gates, are left out. Of two audits the inner one collects.
        """
        before, self.records = self.records, []
        try:
            yield self.records
        finally:
            self.records = before

    def _record(self, columns: Tensor, direction: Tensor, beta: Tensor, value: Tensor) -> None:
        assert self.records is not None
        tokens = [columns, direction, beta, value]
        if self.channel_dim == 1:
            tokens = [columns.movedim((1, 2), (-2, -1)), *(t.movedim(1, -1) for t in tokens[1:])]
        columns, direction, beta, value = (t.detach().to(working_dtype(t)) for t in tokens)
        norm = direction.norm(dim=-1, keepdim=True)
        unit = direction / (norm.square() + self.eps**2).sqrt()
        gap = (columns * unit.unsqueeze(-2)).sum(-1) - value
        after = delta_write(columns, direction, beta, value, mode=self.mode, eps=self.eps)
        gap_after = (after * unit.unsqueeze(-2)).sum(-1) - value
        self.records.append(
            {
                "beta": beta.mean(),
                "discrepancy_before": gap.norm(dim=-1).mean(),
                "discrepancy_after": gap_after.norm(dim=-1).mean(),
                "branch_norm": norm.mean(),
            }
        )

    def _heads(
        self, columns: Tensor, site: int, y: Tensor, context: Context
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return β with size 1 and v with size m on the axis of D, and the direction."""
        normed, read = context.normed, context.read
        assert isinstance(normed, Tensor) and isinstance(read, Tensor)
        direction, to_gate = y, normed
        to_value = read if self.parameterisation == "repo" else normed
        if self.parameterisation == "v1":
            assert self.direction_in is not None and self.direction_out is not None
            to_gate, to_value = columns.mean(-2 if self.channel_dim == -1 else 1), y
            hidden = F.gelu(self._linear(to_gate, self.direction_in[site]))
            direction = self._linear(hidden, self.direction_out[site])
        if to_gate is to_value and self._heads_are_linear():
            # One product for both heads reads the context once.
            assert self.gate is not None and self.value is not None
            weight = torch.cat([self.gate[site : site + 1], self.value[site]])
            both = self._linear(to_gate, weight)
            logit, value = both.split([1, self.value_channels], self.channel_dim)
        else:
            logit, value = self._gate(to_gate, site), self._target(to_value, site)
        if logit is None:
            assert self.frozen_beta is not None
            beta = torch.full_like(value.narrow(self.channel_dim, 0, 1), self.frozen_beta)
        else:
            assert self.gate_bias is not None
            beta = 2.0 * (logit.to(working_dtype(logit)) + self.gate_bias[site]).sigmoid()
        return beta, value, direction

    def _heads_are_linear(self) -> bool:
        plain = self.parameterisation == "paper" and self.gate_hidden is None
        return plain and self.gate is not None and self.value is not None

    def _gate(self, x: Tensor, site: int) -> Tensor | None:
        """Return the logit of β / 2 without its bias, or None where β is frozen."""
        if self.gate is None:
            return None
        if self.gate_hidden is not None:
            x = self._linear(x, self.gate_hidden[site]).tanh()
        return self._linear(x, self.gate[site : site + 1])

    def _target(self, x: Tensor, site: int) -> Tensor:
        """Return v; zeros where nothing is written."""
        if self.value is None:
            narrow = x.narrow(self.channel_dim, 0, 1)
            return torch.zeros_like(torch.cat([narrow] * self.value_channels, self.channel_dim))
        bias = None if self.value_bias is None else self.value_bias[site]
        value = self._linear(x, self.value[site], bias)
        return SQUASH * value.sigmoid() if self.parameterisation == "repo" else value

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.channel_dim == -1:
            return F.linear(x, weight, bias)
        return F.linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)

    def extra_repr(self) -> str:
        """Show what was chosen."""
        return (
            f"width={self.width}, sites={len(self.sites)}, value_channels={self.value_channels}, "
            f"parameterisation={self.parameterisation!r}, mode={self.mode!r}"
        )


def delta_cc(
    width: int,
    sites: Sequence[Site],
    *,
    channel_dim: int = -1,
    value_channels: int = 4,
    expand: Literal["repeat", "convolution"] = "repeat",
    parameterisation: Literal["paper", "repo", "v1"] = "paper",
    mode: DeltaMode = "full",
) -> Delta:
    """DDL-CC: a state of 4 columns, compressed over channels.

    The paper's bare "DDL" is this with `expand="convolution"`, which needs tokens.
    """
    return Delta(
        width,
        sites,
        channel_dim=channel_dim,
        value_channels=value_channels,
        expand=expand,
        parameterisation=parameterisation,
        mode=mode,
    )
