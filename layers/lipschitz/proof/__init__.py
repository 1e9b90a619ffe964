"""What proves a constant: norms rounded upwards, the matrix inequality, its multipliers."""

from .constant import shear_lipschitz, verified_lipschitz
from .inequality import LMIBlock, lmi_matrix
from .multipliers import lmi_lipschitz
from .norms import (
    conv_bound,
    gamma,
    one_infinity_bound,
    product_up,
    root_up,
    spectral_bound,
    sum_up,
    wide,
)

__all__ = [
    "LMIBlock",
    "conv_bound",
    "gamma",
    "lmi_lipschitz",
    "lmi_matrix",
    "one_infinity_bound",
    "product_up",
    "root_up",
    "shear_lipschitz",
    "spectral_bound",
    "sum_up",
    "verified_lipschitz",
    "wide",
]
