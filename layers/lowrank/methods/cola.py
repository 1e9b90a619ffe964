"""CoLA: an activation between two factors, so that no matrix stands behind them.

    y = left silu(right x)

Both factors start as N(0, d²) with d = (rows + columns)^(-1/4) r^(-1/4), so that an entry of their
product has the variance 1 / (rows + columns). What the matrix was is not used.

Source: Liu et al. 2025, "CoLA: Compute-Efficient Pre-Training of LLMs via Low-Rank Activation",
arXiv:2502.10940.
Differs from it: activations of the network itself stay; from 350 M parameters on its code removes
those of a gated MLP.
"""

import torch
from torch import Tensor, nn

from ..maths.random_vectors import normal
from ..method import Method, check_rank, rank_of
from ..weights.factors import Factors

__all__ = ["CoLA"]


class CoLA(Method):
    """Two factors with SiLU between them.

    Args:
        rank: Components, or a share of the full rank; the paper takes a quarter of the width.

    Raises:
        ValueError: a rank out of its range.
    """

    is_matrix = False

    def __init__(self, *, rank: int | float = 0.25) -> None:
        """Check and keep the rank."""
        check_rank(rank)
        self.rank = rank

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Draw both factors."""
        *batch, rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        std = ((rows + columns) * rank) ** -0.25
        left = normal((*batch, rows, rank), std, weight, generator)
        right = normal((*batch, rank, columns), std, weight, generator)
        return Factors(left, right, between=nn.SiLU())
