"""What rows lose by rounding on their way through an operator."""

from ....layers.lipschitz.proof.norms import gamma, product_up, sum_up
from ..maps import MatrixMap
from ..operators import Blocks, Operator

__all__ = ["inexact", "lost_by_adjoint"]


def lost_by_adjoint(operator: Operator) -> float:
    """Bound what the adjoint loses by rounding, for rows and values of length 1."""
    exact = operator.roundings == 0 and getattr(operator, "identity", False)
    if exact:
        return 0.0
    digits = gamma(2 * operator.rows + 2 * operator.roundings + 16)
    return sum_up(product_up(digits, operator.loose), inexact(operator))


def inexact(operator: Operator) -> float:
    """Bound the norm of what an operator differs by from the one that is meant."""
    if isinstance(operator, Blocks) and isinstance(operator.base, MatrixMap):
        return product_up(operator.base.error, operator.read.norm)
    return 0.0
