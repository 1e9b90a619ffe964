"""MiSS: one trained factor; the input is summed over slices of r entries.

    y = W x + D Σ_g x_g,    x padded to slices x_g of r entries,    D (rows, r) = 0 at the start

That is LoRA with the fixed A = [I_r … I_r], which is never stored.

Source: Kang and Yin 2024, "MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing
Structure", arXiv:2409.15371.
Differs from it: nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..weights.structure import FrozenDense, WeightStructure, own_copy
from .adapter import RankedAdapter

__all__ = ["MiSS", "SharedSlices"]


class SharedSlices(WeightStructure):
    """A frozen weight, and a factor that all slices of the input share.

    Args:
        weight: W (..., rows, columns).
        left: D (..., rows, r).
    """

    def __init__(self, weight: Tensor, left: Tensor) -> None:
        """Keep copies."""
        super().__init__()
        self.shape = tuple(weight.shape)
        self.left = nn.Parameter(own_copy(left))
        self.extra = FrozenDense(weight)

    @property
    def rank(self) -> int:
        """Entries r of a slice."""
        return self.left.shape[-1]

    def dense(self) -> Tensor:
        """Return W + D [I_r … I_r]."""
        columns = self.shape[-1]
        repeats = [1] * (self.left.dim() - 1) + [-(-columns // self.rank)]
        return self.extra.dense() + self.left.repeat(repeats)[..., :columns]

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Sum the slices, and multiply by the factor."""
        padded = F.pad(x, (0, -x.shape[-1] % self.rank))
        slices = padded.unflatten(-1, (-1, self.rank)).sum(-2)
        return F.linear(slices, self.left, bias) + self.extra.linear(x, None)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{'x'.join(map(str, self.shape))}, rank={self.rank}"


class MiSS(RankedAdapter):
    """A factor of slices of r entries that are summed.

    Args:
        rank: r, or a share of the full rank.

    Raises:
        ValueError: a setting out of its range.
    """

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r · rows."""
        return torch.Size(shape[:-1]).numel() * self.rank_for("a weight", shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> SharedSlices:
        """Put the factor beside the weight."""
        rank = self.rank_for(name, tuple(weight.shape))
        return SharedSlices(weight, weight.new_zeros(*weight.shape[:-1], rank))
