"""A frozen weight at few levels: codes of a normal distribution's quantiles, scaled block by block.

    W ≈ s_block · level[code],    2^b levels in [-1, 1], 0 among them

The weights are taken row by row in blocks, padded with zeros; s is the largest magnitude of a
block. Scales are stored at 2^b₀ even steps between the smallest and the largest of a group of them.
A weight takes b + b₀ / B₀ + 2 b₁ / (B₀ B₁) bits that way, B₀ weights a block, B₁ blocks a group and
b₁ bits for each end of a group; here codes lie in whole bytes, since nothing computes with packed
ones.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv:2305.14314;
its levels, at any number of bits, as in Guo et al. 2023, "LQ-LoRA", arXiv:2311.12023.
Differs from them: sizes need not be multiples of a block; a group keeps its smallest scale and the
step from one to the next, two numbers where LQ-LoRA counts one.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..maths.decompose import refuse_infinite
from .structure import WeightStructure

__all__ = ["FORMATS", "BlockFormat", "Quantised", "normal_levels"]

OFFSET = 0.9677083
"""The quantile of the largest level."""

ENDS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class BlockFormat(NamedTuple):
    """How a weight is stored.

    Args:
        bits: b, from 2 to 8.
        scale_bits: b₀, from 2 to 8.
        ends: Of a group: `bf16`, `fp16` or `fp32`.
        block: B₀, weights that share a scale.
        scale_block: B₁, scales that share their ends.
    """

    bits: int
    scale_bits: int = 8
    ends: str = "fp32"
    block: int = 64
    scale_block: int = 256

    @classmethod
    def read(cls, text: str | int) -> BlockFormat:
        """Return what `str` of a format wrote, such as 3/8/fp32/64/256; bits alone will do.

        Raises:
            ValueError: no such format.
        """
        parts = str(text).split("/")
        if len(parts) not in (1, 5) or not all(part.isdigit() for part in (*parts[:2], *parts[3:])):
            raise ValueError(f"no format {text!r}, such as 3 or 3/8/fp32/64/256")
        given = [part if part in ENDS or not part.isdigit() else int(part) for part in parts]
        return cls(*given).checked()  # type: ignore[arg-type]

    def checked(self) -> BlockFormat:
        """Return the format.

        Raises:
            ValueError: a number out of its range.
        """
        for bits in (self.bits, self.scale_bits):
            if not 2 <= bits <= 8:
                raise ValueError(f"bits must lie in [2, 8], got {bits}")
        if self.ends not in ENDS:
            raise ValueError(f"ends must be one of {', '.join(ENDS)}, got {self.ends!r}")
        if self.block < 1 or self.scale_block < 1:
            raise ValueError(f"blocks must be at least 1, got {self.block} and {self.scale_block}")
        return self

    def __str__(self) -> str:
        """Write the format, as `read` reads it."""
        return "/".join(map(str, self))

    def storage_bits(self, numbers: int) -> int:
        """Return the bits that so many weights take: packed codes, scales and ends of groups."""
        blocks = -(-numbers // self.block)
        groups = -(-blocks // self.scale_block)
        ends = groups * 2 * 8 * ENDS[self.ends].itemsize
        return numbers * self.bits + blocks * self.scale_bits + ends


FORMATS = tuple(
    BlockFormat(*each)
    for each in itertools.product((2, 3, 4, 8), (2, 3, 4, 8), ENDS, (16, 32, 64), (16, 64, 256))
)
"""Those among which LQ-LoRA chooses."""


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


class Quantised(WeightStructure):
    """A weight at few levels, which nothing trains.

    Args:
        weight: W (..., rows, columns).
        how: Its format, or bits alone.

    Attributes:
        codes: Of the weights, padded (blocks, B₀), uint8.
        scale_codes: Of the scales, padded (groups, B₁), uint8.
        ends: Smallest scale and step of each group (groups, 2).

    Raises:
        ValueError: a format out of its range, NaN or infinite weights.
    """

    codes: Tensor
    scale_codes: Tensor
    ends: Tensor
    levels: Tensor

    def __init__(self, weight: Tensor, how: BlockFormat | int) -> None:
        """Round the weight."""
        super().__init__()
        self.how = (BlockFormat(how) if isinstance(how, int) else how).checked()
        refuse_infinite(weight, "weight")
        self.shape = tuple(weight.shape)
        levels = normal_levels(self.how.bits)
        self.register_buffer("levels", levels.to(weight), persistent=False)
        flat = weight.detach().flatten().to(self._wide())
        tiles = F.pad(flat, (0, -len(flat) % self.how.block)).view(-1, self.how.block)
        scales = tiles.abs().amax(1)
        # Padded with the last one, which moves no end.
        more = scales[-1:].expand(-len(scales) % self.how.scale_block)
        groups = torch.cat([scales, more]).view(-1, self.how.scale_block)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        most = 2**self.how.scale_bits - 1
        stored = ENDS[self.how.ends]
        low = low.to(stored)
        ends = torch.cat([low, ((high - low.to(high)) / most).to(stored)], 1)
        self.register_buffer("ends", ends)
        low, step = ends.to(groups).split(1, 1)
        # Rounded ends may leave a scale outside of them.
        codes = ((groups - low) / torch.where(step > 0, step, 1.0)).round().clamp(0, most)
        self.register_buffer("scale_codes", codes.to(torch.uint8))
        unit = tiles / torch.where(self._scales() > 0, self._scales(), 1.0)
        middles = ((levels[1:] + levels[:-1]) / 2).to(unit)
        self.register_buffer("codes", torch.bucketize(unit.contiguous(), middles).to(torch.uint8))

    def dense(self) -> Tensor:
        """Return the rounded weight."""
        tiles = self.levels[self.codes.long()] * self._scales()
        return tiles.to(self.levels).flatten()[: torch.Size(self.shape).numel()].view(self.shape)

    def storage_bits(self) -> int:
        """Return the bits that the weight takes where codes are packed."""
        return self.how.storage_bits(torch.Size(self.shape).numel())

    def _scales(self) -> Tensor:
        """Return the rounded scales (blocks, 1), in float32 at least."""
        ends = self.ends.to(self._wide())
        scales = ends[:, :1] + self.scale_codes.to(ends) * ends[:, 1:]
        blocks = -(-torch.Size(self.shape).numel() // self.how.block)
        return scales.flatten()[:blocks, None]

    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.levels.dtype, torch.float32)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{'x'.join(map(str, self.shape))}, {self.how}"
