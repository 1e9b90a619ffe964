"""Group lasso over the components of two factors: hierarchical, flat, and its proximal step.

For factors left (..., rows, R) and right (..., R, columns), component j is the column left_j with
the row right_j, and left_{j:} are all columns from the j-th on:

    hierarchical   Σ_j ‖left_{j:}‖ + ‖right_{j:}‖          flat   Σ_j ‖left_j‖ + ‖right_j‖

in Frobenius norms that are not squared, left and right apart. In the first, component j lies in j
groups, so the last ones are pushed to zero hardest and what remains is a prefix. Leading dimensions
hold the groups of a convolution, which share a rank: a component is all of their columns together.

The hierarchical proximal step, argmin_Z t Σ_j ‖Z_{j:}‖ + ‖Z - X‖²/2, is exact for nested groups
when the groups are shrunk one after the other from the innermost:

    j = R … 1:   X_{j:} <- max(0, 1 - t / ‖X_{j:}‖) X_{j:}

It makes true zeros, which a sub-gradient in the loss does not.

Source: Horváth et al. 2023, "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition",
arXiv:2308.14929; the proximal step: Jenatton et al. 2011, "Proximal Methods for Hierarchical Sparse
Coding", JMLR 12, whose nested case it is.
Differs from the first: where a group is exactly zero its sub-gradient is zero, not NaN.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "component_squares",
    "flat_group_lasso",
    "hierarchical_group_lasso",
    "prox_hierarchical",
    "prox_scales",
]


def component_squares(factor: Tensor, dim: int) -> Tensor:
    """Return the squared norm of every component (R,), in float32 at least.

    Args:
        factor: left with dim -1, or right with dim -2.
        dim: The dimension of the components, negative.
    """
    wide = factor if factor.dtype == torch.float64 else factor.float()
    others = [d for d in range(-factor.dim(), 0) if d != dim]
    squares = wide.square().sum(others)
    whole = getattr(squares, "full_tensor", None)  # of what `fully_shard` cut
    return squares if whole is None else whole()


def hierarchical_group_lasso(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_j ‖left_{j:}‖ + ‖right_{j:}‖, a scalar with a finite gradient everywhere."""
    total = [
        _norm(component_squares(factor, dim).flip(0).cumsum(0)).sum()
        for factor, dim in ((left, -1), (right, -2))
    ]
    return total[0] + total[1]


def flat_group_lasso(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_j ‖left_j‖ + ‖right_j‖, a scalar with a finite gradient everywhere."""
    return _norm(component_squares(left, -1)).sum() + _norm(component_squares(right, -2)).sum()


def prox_scales(squares: Sequence[float], threshold: float) -> list[float]:
    """Return what the hierarchical proximal step multiplies each component by.

    Only norms enter: after its turn the suffix from j on has norm n_j = max(0, m_j - t) with
    m_j² = ‖X_j‖² + n²_{j+1}, and component j has been multiplied by all n_i / m_i with i ≤ j.

    Args:
        squares: ‖X_j‖² (R,). Plain numbers: R steps that each need the one before.
        threshold: t, at least 0.

    Raises:
        ValueError: a negative threshold.
    """
    if not threshold >= 0.0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    scales, suffix = [1.0] * len(squares), 0.0
    for j in range(len(squares) - 1, -1, -1):
        before = math.sqrt(squares[j] + suffix * suffix)
        suffix = before - threshold
        if suffix <= 0.0:  # false for NaN, which must stay visible
            suffix = scales[j] = 0.0
        else:
            scales[j] = suffix / before
    running = 1.0
    for j, scale in enumerate(scales):
        running *= scale
        scales[j] = running
    return scales


@torch.no_grad()
def prox_hierarchical(factor: Tensor, dim: int, threshold: float) -> Tensor:
    """Return the hierarchical proximal step of one factor.

    Args:
        factor: left with dim -1, or right with dim -2.
        dim: The dimension of the components, negative.
        threshold: t, at least 0; 0 changes nothing.

    Raises:
        ValueError: a negative threshold.
    """
    scales = prox_scales(component_squares(factor, dim).tolist(), threshold)
    shape = [1] * factor.dim()
    shape[dim] = -1
    return factor * factor.new_tensor(scales).view(shape)


def _norm(squares: Tensor) -> Tensor:
    """Square root whose gradient at zero is zero, a sub-gradient of the norm."""
    positive = squares > 0
    return squares.where(positive, 1.0).sqrt() * positive
