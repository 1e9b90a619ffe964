"""Scaled residual: x <- x + λ y, with λ fixed by depth or learned.

    λ = coefficient · L^(-exponent)

For independent random branches the stream's variance grows as (1 + λ² s²)^L: λ = 1 explodes,
1/√L stays finite, 1/L makes a fresh network the identity. L counts residual adds by default and
blocks with `count="blocks"`: recipes differ in this, and for a Transformer by a factor of two.

SkipInit, ReZero and LayerScale are presets of the same formula with a learned λ.

Sources: τ-ResNet, Zhang et al. 2019, arXiv:1903.07120 (1/√L over blocks); SkipInit, De & Smith
2020, arXiv:2002.10444; ReZero, Bachlechner et al. 2020, arXiv:2003.04887; LayerScale, Touvron et
al. 2021, arXiv:2103.17239, §2.
Differs from them: λ multiplies the branch output and is never folded into weights, since folding
changes what Adam does; the backbone's pre-norm stays, which ReZero and SkipInit allow but do not
need.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay
from ..units import Label
from .stream import Context, Residual, Site, State, keep_branch

__all__ = ["Scaled", "layer_scale", "rezero", "scale_by_depth", "skip_init"]


def scale_by_depth(depth: int, *, coefficient: float = 1.0, exponent: float = 0.5) -> float:
    """Return coefficient · depth^(-exponent)."""
    return coefficient * depth**-exponent


class Scaled(Residual):
    """Add the branch output times λ. State: (x,).

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        coefficient: Factor of λ; any real number, 0 closes every branch.
        exponent: Power of 1/L, at least 0: 0, 1/2 and 1 are the usual ones.
        count: What L counts, `adds` (sites) or `blocks`.
        learned: Whether λ is a parameter, starting from the formula.
        per_channel: One λ for each of the D channels; needs `learned`.
        shared: One λ for all sites of a block; needs `learned`.

    Raises:
        ValueError: exponent < 0, an unknown count, or per_channel / shared without learned.
    """

    keeps_only_the_stream = True
    traces_in_fx = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        coefficient: float = 1.0,
        exponent: float = 0.5,
        count: Literal["adds", "blocks"] = "adds",
        learned: bool = False,
        per_channel: bool = False,
        shared: bool = False,
    ) -> None:
        """Fix λ, or make it a parameter."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if not math.isfinite(coefficient):
            raise ValueError(f"coefficient must be finite, got {coefficient}")
        if exponent < 0:
            raise ValueError(f"exponent must be at least 0, got {exponent}")
        if count not in ("adds", "blocks"):
            raise ValueError(f"count must be 'adds' or 'blocks', got {count!r}")
        if (per_channel or shared) and not learned:
            raise ValueError(
                "per_channel and shared need learned=True; set it, or leave both False"
            )
        depth = len(self.sites) if count == "adds" else self.num_blocks
        self.initial = scale_by_depth(depth, coefficient=coefficient, exponent=exponent)
        self.equals_prenorm_at_init = self.initial == 1.0
        first = self.sites[0].block
        self.row = [site.block - first if shared else i for i, site in enumerate(self.sites)]
        if learned:
            columns = width if per_channel else 1
            self.scale = nn.Parameter(torch.empty(max(self.row) + 1, columns))
            exclude_from_decay(self, "scale")
            self.reset_parameters()
        else:
            self.scale = None

    def reset_parameters(self) -> None:
        """Set every learned λ to the value of the formula."""
        if self.scale is not None:
            nn.init.constant_(self.scale, self.initial)

    @property
    def unit_axes(  # type: ignore[override]
        self,
    ) -> Mapping[str, tuple[Label, ...]]:
        """λ is along the channels where each has one."""
        per_channel = self.scale is not None and self.scale.shape[1] == self.width
        return {"scale": (None, "stream" if per_channel else None)}

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return state[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add λ times the branch output."""
        if self.scale is None:
            scaled = y if self.initial == 1.0 else self.initial * y
        else:
            scaled = self.along_channels(self.scale[self.row[site]], y).to(y.dtype) * y
        return (state[0] + keep_branch(scaled, context.keep),)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return state[0]

    def extra_repr(self) -> str:
        """Show λ."""
        return f"scale={self.initial:.4g}, learned={self.scale is not None}"


def skip_init(
    width: int, sites: Sequence[Site], *, channel_dim: int = -1, coefficient: float = 0.0
) -> Scaled:
    """SkipInit: one learned scalar per branch, starting at 0."""
    return Scaled(
        width, sites, channel_dim=channel_dim, coefficient=coefficient, exponent=0.0, learned=True
    )


def rezero(width: int, sites: Sequence[Site], *, channel_dim: int = -1) -> Scaled:
    """ReZero: one learned scalar per block, shared by its branches, starting at 0."""
    return Scaled(
        width,
        sites,
        channel_dim=channel_dim,
        coefficient=0.0,
        exponent=0.0,
        learned=True,
        shared=True,
    )


def layer_scale(
    width: int, sites: Sequence[Site], *, channel_dim: int = -1, initial: float | None = None
) -> Scaled:
    """LayerScale: one learned scale per channel and branch.

    `initial` of None is the paper's rule by depth in blocks: 0.1 up to 18, 1e-5 up to 24, 1e-6
    beyond.
    """
    blocks = len({site.block for site in sites})
    by_depth = 0.1 if blocks <= 18 else 1e-5 if blocks <= 24 else 1e-6
    return Scaled(
        width,
        sites,
        channel_dim=channel_dim,
        coefficient=by_depth if initial is None else initial,
        exponent=0.0,
        learned=True,
        per_channel=True,
    )
