"""What singular values say about how many components a matrix needs.

Sources: stable rank, Rudelson and Vershynin 2007, arXiv:math/0503442; effective rank, Roy and
Vetterli 2007, "The Effective Rank: A Measure of Effective Dimensionality", EUSIPCO.
Differs from them: matrices of a batch, such as the groups of a convolution, share one rank.
"""

# Shape letters: K singular values, descending; ... a batch of matrices.

import torch
from torch import Tensor

__all__ = [
    "effective_rank",
    "normalised_spectrum",
    "rank_for_energy",
    "rank_for_threshold",
    "stable_rank",
    "tail_energy",
]


def tail_energy(singular_values: Tensor) -> Tensor:
    """Return Σ_{i>r} σ_i² for r = 0 … K, summed over a batch, (K + 1,) in float64.

    It is the squared error of the best approximation of rank r, and convex in r.

    Args:
        singular_values: (..., K).
    """
    energy = singular_values.double().square().reshape(-1, singular_values.shape[-1]).sum(0)
    # Added from the smallest up, so that a small tail keeps its digits.
    return torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])


def rank_for_energy(singular_values: Tensor, discarded: float) -> int:
    """Return the smallest rank, at least 1, that loses at most a share e of Σ σ².

    Args:
        singular_values: (..., K).
        discarded: e in [0, 1); 0 keeps all K.

    Raises:
        ValueError: a share outside [0, 1).
    """
    if not 0.0 <= discarded < 1.0:
        raise ValueError(f"discarded must be a share in [0, 1), got {discarded}")
    if discarded == 0.0:
        return singular_values.shape[-1]
    tail = tail_energy(singular_values)
    return max(1, int((tail > discarded * tail[0]).sum()))


def rank_for_threshold(singular_values: Tensor, threshold: float) -> int:
    """Return the number of singular values that are at least a threshold.

    Args:
        singular_values: (..., K); the largest number among a batch counts.
        threshold: In the unit of the singular values.
    """
    return int((singular_values >= threshold).sum(-1).amax())


def normalised_spectrum(singular_values: Tensor) -> Tensor:
    """Return (σ - min σ) / (max σ - min σ) over K, in [0, 1]; all 1 where all σ are equal.

    Args:
        singular_values: (..., K).
    """
    values = singular_values.double()
    smallest, largest = values.aminmax(dim=-1, keepdim=True)
    spread = largest - smallest
    return torch.where(spread > 0, (values - smallest) / spread, 1.0)


def stable_rank(singular_values: Tensor) -> Tensor:
    """Return Σ σ² / max σ², (...,); between 1 and the rank, and 0 for a matrix of zeros.

    Args:
        singular_values: (..., K).
    """
    energy = singular_values.double().square()
    largest = energy.amax(-1)
    return torch.where(largest > 0, energy.sum(-1) / largest, 0.0)


def effective_rank(singular_values: Tensor) -> Tensor:
    """Return exp of the entropy of σ / Σ σ, (...,); between 1 and the rank, 0 for zeros.

    Args:
        singular_values: (..., K).
    """
    values = singular_values.double()
    total = values.sum(-1, keepdim=True)
    share = torch.where(total > 0, values / total, 0.0)
    entropy = -torch.special.xlogy(share, share).sum(-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), 0.0)
