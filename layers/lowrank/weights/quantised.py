"""A frozen weight at few levels: codes of a normal distribution's quantiles, scaled block by block.

    W ≈ s_block · level[code],    2^b levels in [-1, 1], 0 among them

The weights are taken row by row in blocks, padded with zeros; s is the largest magnitude of a
block. Scales are stored at 2^b₀ even steps between the smallest and the largest of a group of them.
A weight takes b + b₀ / B₀ + 2 · 32 / (B₀ B₁) bits that way, B₀ weights a block and B₁ blocks a
group; here codes lie in whole bytes, since nothing computes with packed ones.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv:2305.14314;
its levels, at any number of bits, as in Guo et al. 2023, "LQ-LoRA", arXiv:2311.12023.
Differs from them: sizes need not be multiples of a block.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..maths.decompose import refuse_infinite
from .structure import WeightStructure

__all__ = ["Quantised", "normal_levels", "storage_bits"]

OFFSET = 0.9677083
"""The quantile of the largest level."""


def normal_levels(bits: int) -> Tensor:
    """Return 2^bits ascending levels in [-1, 1], in float64.

    Raises:
        ValueError: bits outside [2, 8].
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must lie in [2, 8], got {bits}")
    half = 2 ** (bits - 1)
    sides = [
        torch.special.ndtri(torch.linspace(OFFSET, 0.5, count, dtype=torch.float64)[:-1])
        for count in (half + 1, half)
    ]
    levels = torch.cat([sides[0], torch.zeros(1, dtype=torch.float64), -sides[1]]).sort().values
    return levels / levels.abs().max()


def storage_bits(numbers: int, bits: int, block: int, scale_bits: int, scale_block: int) -> int:
    """Return the bits that so many weights take: packed codes, scales and ends of groups."""
    blocks = -(-numbers // block)
    groups = -(-blocks // scale_block)
    return numbers * bits + blocks * scale_bits + groups * 2 * 32


class Quantised(WeightStructure):
    """A weight at few levels, which nothing trains.

    Args:
        weight: W (..., rows, columns).
        bits: b, from 2 to 8.
        block: B₀, weights that share a scale.
        scale_bits: b₀, from 2 to 8.
        scale_block: B₁, scales that share their ends.

    Attributes:
        codes: Of the weights, padded (blocks, B₀), uint8.
        scale_codes: Of the scales, padded (groups, B₁), uint8.
        ends: Smallest scale and step of each group (groups, 2).

    Raises:
        ValueError: a number out of its range, NaN or infinite weights.
    """

    codes: Tensor
    scale_codes: Tensor
    ends: Tensor
    levels: Tensor

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        *,
        block: int = 64,
        scale_bits: int = 8,
        scale_block: int = 256,
    ) -> None:
        """Round the weight."""
        super().__init__()
        levels = normal_levels(bits)
        normal_levels(scale_bits)  # the same range
        if block < 1 or scale_block < 1:
            raise ValueError(f"blocks must be at least 1, got {block} and {scale_block}")
        refuse_infinite(weight, "weight")
        self.shape = tuple(weight.shape)
        self.bits, self.block = bits, block
        self.scale_bits, self.scale_block = scale_bits, scale_block
        self.register_buffer("levels", levels.to(weight), persistent=False)
        flat = weight.detach().flatten()
        tiles = F.pad(flat, (0, -len(flat) % block)).view(-1, block)
        scales = tiles.abs().amax(1)
        # Padded with the last one, which moves no end.
        more = scales[-1:].expand(-len(scales) % scale_block)
        groups = torch.cat([scales, more]).view(-1, scale_block)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        step = (high - low) / (2**scale_bits - 1)
        codes = ((groups - low) / torch.where(step > 0, step, 1.0)).round()
        self.register_buffer("scale_codes", codes.to(torch.uint8))
        self.register_buffer("ends", torch.cat([low, step], 1))
        unit = tiles / torch.where(self._scales() > 0, self._scales(), 1.0)
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        self.register_buffer("codes", torch.bucketize(unit.contiguous(), middles).to(torch.uint8))

    def dense(self) -> Tensor:
        """Return the rounded weight."""
        tiles = self.levels[self.codes.long()] * self._scales()
        return tiles.flatten()[: torch.Size(self.shape).numel()].view(self.shape)

    def storage_bits(self) -> int:
        """Return the bits that the weight takes where codes are packed."""
        size = torch.Size(self.shape).numel()
        return storage_bits(size, self.bits, self.block, self.scale_bits, self.scale_block)

    def _scales(self) -> Tensor:
        """Return the rounded scales (blocks, 1)."""
        scales = self.ends[:, :1] + self.scale_codes.to(self.ends) * self.ends[:, 1:]
        blocks = -(-torch.Size(self.shape).numel() // self.block)
        return scales.flatten()[:blocks, None]

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{'x'.join(map(str, self.shape))}, bits={self.bits}, block={self.block}"
