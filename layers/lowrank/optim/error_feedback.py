"""What a projection drops of a gradient, kept for the next one.

    a = G + E,    E <- a - (a P) Pᵀ

In whole numbers each row of E has 255 evenly spaced levels up to its largest magnitude, a quarter
of the bytes of float32.

Source: Modoranu et al. 2025, arXiv:2505.17967, after Seide et al. 2014, "1-Bit Stochastic Gradient
Descent".
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["keep_error", "kept_error"]

LEVELS = 127


def kept_error(state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    """Return E in the dtype of a gradient (m, n); zeros before the first one is kept."""
    if "error" not in state:
        return torch.zeros_like(gradient)
    if "error_scale" not in state:
        return state["error"]
    scale = state["error_scale"]
    return (state["error"].to(scale.dtype) * scale).to(gradient.dtype)


def keep_error(state: dict[str, Any], error: Tensor, *, whole_numbers: bool) -> None:
    """Keep E (m, n), as it is or in whole numbers of one byte with a scale (m, 1) a row."""
    if not whole_numbers:
        state["error"] = error
        return
    accurate = error.to(torch.promote_types(error.dtype, torch.float32))
    scale = accurate.abs().amax(dim=1, keepdim=True) / LEVELS
    # A row of zeros has no scale; any divisor leaves its zeros.
    levels = torch.round(accurate / torch.where(scale > 0, scale, 1.0))
    state["error"], state["error_scale"] = levels.to(torch.int8), scale
