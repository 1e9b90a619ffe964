"""ALLoRA: LoRA whose gradient is larger in the rows of W that the adapter has moved less.

    W_eff = W + B A        the gradient of row i of B A times  c_i = 1 / √(‖(B A)_i‖ + 1 / η²)

c = η at the start and falls as the row grows, so there is neither a scale nor dropout to choose.
The gradient that goes on to the input is not changed.

Source: Huang and Balestriero 2024, "ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws",
arXiv:2410.09692.
Differs from it: nothing; community optimisers that take the rows of B, frozen at the start, do.
Under Adam a factor that is the same for a whole row of B cancels, so the effect is on A.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..weights.factors import Factors
from ..weights.structure import ConvSettings, FrozenDense, WeightStructure
from .adapter import RankedAdapter, fresh_right

__all__ = ["ALLoRA", "RowScaledFactors"]


class RowScaledFactors(Factors):
    """Factors over a frozen weight, with a gradient that depends on the rows of their product.

    Args:
        left: B (..., rows, r).
        right: A (..., r, columns).
        weight: W (..., rows, columns).
        eta: η > 0.
    """

    def __init__(self, left: Tensor, right: Tensor, weight: Tensor, *, eta: float) -> None:
        """Keep copies."""
        super().__init__(left, right, extra=FrozenDense(weight))
        self.eta = eta

    def row_factors(self, product: Tensor) -> Tensor:
        """Return c (..., rows, 1) of a product B A."""
        norms = product.detach().norm(dim=-1, keepdim=True)
        return (norms + self.eta**-2).rsqrt()

    def dense(self) -> Tensor:
        """Return W + B A."""
        left, right = self.prefix()
        product = left @ right
        assert self.extra is not None
        if not (self.training and torch.is_grad_enabled()):
            return product + self.extra.dense()
        factors = self.row_factors(product)
        # The value of the product, and the gradient of its multiple.
        kept = ((1 - factors) * product).detach()
        return factors * product + kept + self.extra.dense()

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by W + B A, which its row norms need anyway."""
        return F.linear(x, self.dense(), bias)

    def convolve(self, x: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolve once, with the whole kernel."""
        return WeightStructure.convolve(self, x, bias, settings)


class ALLoRA(RankedAdapter):
    """LoRA with a learning rate of its own for every row.

    Args:
        rank: r, or a share of the full rank.
        eta2: η² > 0; 1, 2 and 4 in the paper.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, *, rank: int | float = 8, eta2: float = 2.0) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank)
        if not eta2 > 0:
            raise ValueError(f"eta2 must be above 0, got {eta2}")
        self.eta2 = eta2

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> RowScaledFactors:
        """Put the factors beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        right = fresh_right(weight, rank, generator)
        left = weight.new_zeros(*batch, rows, rank)
        return RowScaledFactors(left, right, weight, eta=self.eta2**0.5)
