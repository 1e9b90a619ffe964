"""The state of Deep Delta Learning: m columns, how they are made and how they are read as one.

m = 1 is the ordinary stream. m > 1 opens by repetition or by a causal depthwise convolution of the
embedding over the tokens, X_j[t] = Σ_k e_kj ⊙ x[t − K + 1 + k]. Every backbone block, and the
readout, has a compressor:

    channels, paper form    x = Σ_j W_j ⊙ X_j
    channels, repo form     a same-padded depthwise convolution of m taps along the columns, then a
                            read vector: it collapses to such a W
    tokens                  a causal depthwise convolution of K taps over the tokens, then a read
                            vector over the columns

Source: Zhang et al. 2026, "Deep Delta Learning", arXiv:2601.00417.
Differs from it: everything starts as repetition and mean, where the released code's global
initialisation shrinks the first context; compressors are exempt from weight decay.
"""

# Shape letters: B batch, T tokens, D width, m columns, K taps, ... token or pixel axes.

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ...sizes import check_sizes
from ..stream import Past, Residual, Site, State, preceded
from .write import compress as compress_columns

__all__ = ["Columns", "DeltaState", "one_of"]

TAPS = 4  # of the convolutions over tokens


class DeltaState(NamedTuple):
    """The state: X (…, m, D), or (B, m, D, H, W) for images, and a decoder's past."""

    columns: Tensor
    past: Past | None = None


class Columns(Residual):
    """A state of m columns; a subclass says how branches write to it.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        value_channels: m, at least 1.
        expand: How m > 1 columns are made: `repeat`, or `convolution` over the tokens.
        compress: How m > 1 columns are read: over `channels` or over `tokens`.
        cc_form: A channel compressor in the `paper` or the `repo` form.

    Raises:
        ValueError: m < 1, an unknown choice, or a look along the tokens of images.
    """

    expansion: nn.Parameter | None
    columns: nn.Parameter | None
    taps: nn.Parameter | None
    read_vector: nn.Parameter | None

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int,
        value_channels: int,
        expand: Literal["repeat", "convolution"],
        compress: Literal["channels", "tokens"],
        cc_form: Literal["paper", "repo"],
    ) -> None:
        """Make the compressors, and the convolution of the embedding if asked."""
        super().__init__(width, sites, channel_dim=channel_dim)
        one_of("expand", expand, ("repeat", "convolution"))
        one_of("compress", compress, ("channels", "tokens"))
        one_of("cc_form", cc_form, ("paper", "repo"))
        check_sizes(1, value_channels=value_channels)
        wide = value_channels > 1
        along = ["expand='convolution'"] if wide and expand == "convolution" else []
        along += ["compress='tokens'"] if wide and compress == "tokens" else []
        self.looks_along_tokens = " and ".join(along)
        if along and channel_dim != -1:
            raise ValueError(
                f"{self.looks_along_tokens} look along tokens, which images do not have; choose "
                f"expand='repeat' and compress='channels'"
            )
        self.value_channels = m = value_channels
        self.compresses_tokens = wide and compress == "tokens"
        blocks = list(dict.fromkeys(site.block for site in self.sites))
        self.row = [blocks.index(site.block) for site in self.sites]
        readers = self.num_blocks + 1
        self.make("expansion", (TAPS, m, width) if wide and expand == "convolution" else None)
        taps: tuple[int, ...] | None = None
        if self.compresses_tokens:
            taps = (readers, TAPS, m, width)
        elif wide and cc_form == "repo":
            taps = (readers, m, width)
        self.make("taps", taps)
        self.make("read_vector", None if taps is None else (readers, m))
        self.make("columns", (readers, m, width) if wide and taps is None else None)

    def make(self, name: str, shape: tuple[int, ...] | None, *, decays: bool = False) -> None:
        """Make an uninitialised parameter of this name, or None."""
        parameter = None if shape is None else nn.Parameter(torch.empty(shape))
        self.register_parameter(name, parameter)
        if parameter is not None and not decays:
            exclude_from_decay(self, name)

    def reset_columns(self) -> None:
        """Make columns by repetition and read their mean."""
        m = self.value_channels
        for parameter in (self.columns, self.read_vector):
            if parameter is not None:
                nn.init.constant_(parameter, 1.0 / m)
        # A convolution starts as the tap of the column or token itself.
        with torch.no_grad():
            if self.expansion is not None:
                self.expansion.zero_()
                self.expansion[-1] = 1.0
            if self.taps is not None:
                self.taps.zero_()
                self.taps[:, -1 if self.compresses_tokens else (m - 1) // 2] = 1.0

    def stream_shape(self, first: Tensor) -> torch.Size:
        """Leave out the axis of the columns."""
        axis = first.dim() - 2 if self.channel_dim == -1 else 1
        return first.shape[:axis] + first.shape[axis + 1 :]

    def open(self, x: Tensor, past: Past | None = None) -> State:
        """Make m columns of the embedding."""
        if self.looks_along_tokens and x.dim() != 3:
            raise ValueError(
                f"this residual looks along tokens (B, T, D), got shape {tuple(x.shape)}; choose "
                f"expand='repeat' and compress='channels'"
            )
        axis = -2 if self.channel_dim == -1 else 1
        if self.expansion is None:
            repeats = [-1] * (x.dim() + 1)
            repeats[axis] = self.value_channels
            return DeltaState(x.unsqueeze(axis).expand(repeats).contiguous(), past)
        if x.shape[-1] != self.width:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected width {self.width}")
        window = preceded(x, TAPS - 1, past, "expansion")
        weight = self.expansion.to(x.dtype)
        parts = [window[:, tap : tap + x.shape[1], None] * weight[tap] for tap in range(TAPS)]
        return DeltaState(torch.stack(parts).sum(0), past)

    def read(self, state: State, site: int) -> Tensor:
        """Compress the columns with the compressor of the site's block."""
        return self._compressed(DeltaState(*state), self.row[site], f"site {site}")

    def close(self, state: State) -> Tensor:
        """Compress the columns with the readout's compressor."""
        return self._compressed(DeltaState(*state), self.num_blocks, "readout")

    def channel_weights(self) -> Tensor:
        """Return every channel compressor as the matrix W (blocks + 1, m, D) it collapses to."""
        if self.columns is not None:
            return self.columns
        assert self.taps is not None and self.read_vector is not None
        m, left = self.value_channels, (self.value_channels - 1) // 2
        weights = []
        for j in range(m):
            # Output q of the padded convolution sees column j through tap j − q + left.
            reached = [q for q in range(m) if 0 <= j - q + left < m]
            parts = [self.read_vector[:, q, None] * self.taps[:, j - q + left] for q in reached]
            weights.append(torch.stack(parts).sum(0))
        return torch.stack(weights, 1)

    def _compressed(self, state: DeltaState, block: int, name: str) -> Tensor:
        columns, past = state
        if self.value_channels == 1:
            return columns.squeeze(-2 if self.channel_dim == -1 else 1)
        if not self.compresses_tokens:
            return compress_columns(columns, self.channel_weights()[block], self.channel_dim)
        assert self.taps is not None and self.read_vector is not None
        length = columns.shape[1]
        window = preceded(columns, TAPS - 1, past, name)
        weight = self.taps[block] * self.read_vector[block, :, None]
        parts = [compress_columns(window[:, k : k + length], weight[k]) for k in range(TAPS)]
        return torch.stack(parts).sum(0)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a choice that is not among the allowed ones.

    Raises:
        ValueError: naming the argument, the value and the choices.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
