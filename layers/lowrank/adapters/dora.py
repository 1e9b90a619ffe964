"""DoRA: the direction of a weight's rows by two factors, and their lengths by a vector.

    V = W + s B A,    W_eff = m ⊙ V / ‖V‖,    m = ‖W‖ at the start,    norms of rows

The norm counts as a constant in the gradient of A and B, as the paper proposes (its section 4.3): V
is then not kept for the backward pass. A row of zeros has no direction; its m starts at 0.

Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv:2402.09353.
Differs from it: m is free of weight decay, which would shrink the map; a kernel's rows are those of
its unfolding.
"""

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from ..weights.factors import Factors
from ..weights.structure import ConvSettings, FrozenDense, WeightStructure
from .adapter import fresh_right
from .lora import LoRA

__all__ = ["DirectedFactors", "DoRA"]


class DirectedFactors(Factors):
    """Factors over a frozen weight, whose rows then get lengths of their own.

    Args:
        left: B (..., rows, r).
        right: A (..., r, columns).
        weight: W (..., rows, columns).
        scale: s.

    Attributes:
        magnitude: m (..., rows).
    """

    def __init__(self, left: Tensor, right: Tensor, weight: Tensor, *, scale: float) -> None:
        """Take the lengths from the weight."""
        super().__init__(left, right, scale=scale, extra=FrozenDense(weight))
        self.magnitude = nn.Parameter(weight.detach().norm(dim=-1))
        exclude_from_decay(self, "magnitude")

    def dense(self) -> Tensor:
        """Return W_eff."""
        whole = super().dense()
        return self._stretch(whole.detach())[..., None] * whole

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by W and by the factors, then stretch."""
        y = self._stretch(self._whole()) * super().linear(x, None)
        return y if bias is None else y + bias.to(y.dtype)

    def convolve(self, x: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolve once, with the whole kernel."""
        return WeightStructure.convolve(self, x, bias, settings)

    @torch.no_grad()
    def _whole(self) -> Tensor:
        return super().dense()

    def _stretch(self, whole: Tensor) -> Tensor:
        """Return m / ‖V‖, and 1 for a row of zeros."""
        norm = whole.norm(dim=-1)
        return torch.where(norm > 0, self.magnitude / norm.clamp_min(1e-30), 1.0)


class DoRA(LoRA):
    """Directions of rows by two factors, their lengths by a vector.

    Args:
        rank: As of `LoRA`, like the next three.
        alpha: As above.
        ranks: As above.
        alphas: As above.

    Raises:
        ValueError: a setting out of its range.
    """

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r (rows + columns) + rows."""
        return super().numbers(shape) + torch.Size(shape[:-1]).numel()

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> DirectedFactors:
        """Put the factors and the lengths beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        right = fresh_right(weight, rank, generator)
        left = weight.new_zeros(*batch, rows, rank)
        return DirectedFactors(left, right, weight, scale=self.scale_for(name, rank))
