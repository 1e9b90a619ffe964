"""SVFit: the singular values of a weight are trained, their vectors stay.

    W = U diag(σ) V,    W_eff = W + U_r diag(c) V_r,    c = 0 at the start

c is the change of the r largest singular values, so UᵀΔW V is diagonal and r numbers are trained.

Source: Sun et al. 2024, "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using
Singular Values", arXiv:2409.05926.
Differs from it: the change is trained and not the value, so that W stays bit by bit; a value may
become negative.
"""

import torch
from torch import Tensor

from ..maths.decompose import at_least_float32
from ..weights.factors import Factors
from ..weights.structure import FrozenDense
from .adapter import RankedAdapter

__all__ = ["SVFit", "singular_vectors"]


@torch.no_grad()
def singular_vectors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U_r (..., rows, r), σ (..., r) and V_r (..., r, columns) of W, in its dtype."""
    found = torch.linalg.svd(at_least_float32(weight), full_matrices=False)
    left, values, right = (part.to(weight.dtype) for part in found)
    return left[..., :rank], values[..., :rank], right[..., :rank, :]


class SVFit(RankedAdapter):
    """The largest singular values of a weight are trained.

    Args:
        rank: How many, or a share of the full rank.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, *, rank: int | float = 1.0) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank)

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r, for each matrix of a batch."""
        return torch.Size(shape[:-2]).numel() * self.rank_for("a weight", shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Decompose the weight."""
        left, values, right = singular_vectors(weight, self.rank_for(name, tuple(weight.shape)))
        core = torch.zeros_like(values)
        fixed = FrozenDense(weight)
        return Factors(left, right, core=core, extra=fixed, trained=("core",))
