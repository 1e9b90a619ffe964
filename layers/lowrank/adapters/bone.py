"""Bone: each row of blocks of a weight is multiplied and shifted by one small matrix.

    W'_{pq} = W_{pq} (I + D_p) + D_p,    W in blocks of r by r,    D (rows / r, r, r) = 0 at first

The change is not of low rank: of 24 at r = 4 on a 24 by 24 matrix.

Source: Kang and Yin 2024, "MiSS", arXiv:2409.15371 in its first versions, "Bone: Block-Affine
Adaptation of Large Language Models".
Differs from it: taking the adapter off gives the bits of W, where peft inverts I + D_p in float32.
"""

import torch
from torch import Tensor, nn

from ..weights.structure import FrozenDense, WeightStructure
from .adapter import RankedAdapter

__all__ = ["BlockAffine", "Bone"]


class BlockAffine(WeightStructure):
    """A frozen weight whose rows of blocks are multiplied and shifted.

    Args:
        weight: W (..., rows, columns), with sides that r divides.
        rank: r.

    Attributes:
        blocks: D (..., rows / r, r, r).
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        """Start at the weight itself."""
        super().__init__()
        self.shape, self.rank = tuple(weight.shape), rank
        self.extra = FrozenDense(weight)
        *batch, rows, _ = weight.shape
        self.blocks = nn.Parameter(weight.new_zeros(*batch, rows // rank, rank, rank))

    def dense(self) -> Tensor:
        """Return W'."""
        weight = self.extra.dense()
        tiles = weight.unflatten(-1, (-1, self.rank)).unflatten(-3, (-1, self.rank))
        # (..., p, i, q, k): row i of block row p, column k of block column q.
        change = torch.einsum("...piqk,...pkl->...piql", tiles, self.blocks)
        change = change + self.blocks[..., :, None, :]
        return weight + change.reshape(weight.shape)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{'x'.join(map(str, self.shape))}, blocks of {self.rank}"


class Bone(RankedAdapter):
    """Rows of blocks of a weight, multiplied and shifted.

    Args:
        rank: Side r of the blocks, which divides both sides of a weight, or a share of the full
            rank.

    Raises:
        ValueError: a setting out of its range.
    """

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r.

        Raises:
            ValueError: a side that r does not divide.
        """
        rank = super().rank_for(name, shape)
        if shape[-1] % rank or shape[-2] % rank:
            raise ValueError(
                f"rank={rank} does not divide both sides of {name} ({shape[-2]}x{shape[-1]}); "
                f"choose a common divisor, or leave the layer out with targets="
            )
        return rank

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r · rows."""
        return torch.Size(shape[:-1]).numel() * self.rank_for("a weight", shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> BlockAffine:
        """Put the blocks beside the weight."""
        return BlockAffine(weight, self.rank_for(name, tuple(weight.shape)))
