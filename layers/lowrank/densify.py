"""Make those weights dense again whose structure stores more numbers than the matrix itself."""

import math

from torch import nn

from .reparametrize import merge, structures
from .weights.factors import Factors
from .weights.structure import WeightStructure

__all__ = ["convert_uneconomic", "is_economic"]


def is_economic(structure: WeightStructure) -> bool:
    """Whether a structure stores fewer numbers than its matrix (..., rows, columns).

    For two factors: rank < rows · columns / (rows + columns). Components behind the active prefix
    do not count.
    """
    numbers = structure.parameter_count()
    if isinstance(structure, Factors):
        inactive = structure.allocated - structure.rank
        numbers -= (
            inactive
            * (structure.left.numel() + structure.right.numel())
            // max(structure.allocated, 1)
        )
    return numbers < math.prod(structure.shape)


def convert_uneconomic(model: nn.Module) -> list[str]:
    """Make dense, in place, every weight that is no smaller in its structure; outputs stay.

    For export, after training: numbers decide, and multiplications follow them except where a
    spatially split convolution has a stride along the width. A weight with an activation between
    its factors has no matrix and stays.

    Returns:
        Names of the weights that became dense.
    """
    names = [
        name
        for name, _, structure in structures(model)
        if structure.is_matrix and not is_economic(structure)
    ]
    return merge(model, names=names)
