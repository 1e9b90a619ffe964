"""What a map is replaced by on a reach: a linear map and a bound of the rest.

A relaxation takes rows R on the outputs s to rows R' on the inputs u, with

    R · s  ∈  R' · u + c ± w        for all u of the reach
"""

# Shape letters: N samples, K rows, T groups, I and O inputs and outputs of a group, d inputs.

from typing import NamedTuple

import torch
from torch import Tensor

from ..graph import Joint

__all__ = ["SLACK", "Pulled", "Reach", "Relaxation", "norm_up", "steepest", "value"]

SLACK = 1 + 1e-9  # above the rounding of a sum of squares
UNIT_32 = 2.0**-24  # half the distance from 1 to the next float32


class Reach(NamedTuple):
    """Where a value may be: within a box, and within a length of its middle.

    Attributes:
        low: (N, n).
        high: (N, n).
        length: Of the difference to the middle (low + high)/2 (N,).
    """

    low: Tensor
    high: Tensor
    length: Tensor

    @property
    def middle(self) -> Tensor:
        """(N, n)."""
        return self.low + (self.high - self.low) / 2

    @property
    def size(self) -> Tensor:
        """A bound of the norm (N,)."""
        return torch.maximum(self.low.abs(), self.high.abs()).norm(dim=1) * SLACK


class Pulled(NamedTuple):
    """R' (N, K, n), bounds of their lengths, c and w, and what these may be off by (N, K)."""

    rows: Tensor
    length: Tensor
    shift: Tensor
    spread: Tensor
    error: Tensor


class Relaxation:
    """A map replaced by a linear one and a remainder.

    Attributes:
        size: A bound of the norm of s (N,).
        steepest: A Lipschitz constant on the reach (N,).
    """

    size: Tensor
    steepest: Tensor

    def pull(self, rows: Tensor, length: Tensor) -> Pulled:
        """Take rows (N or 1, K, T · O) of bounded lengths to rows on the inputs."""
        raise NotImplementedError

    def stretch(self, rows: Tensor, pulled: Pulled) -> Tensor:
        """Bound the length of R times the remainder (N,)."""
        return pulled.spread.norm(dim=1) * SLACK


def steepest(rows: Tensor) -> Tensor:
    """Bound the spectral norms of matrices (N, K, d).

    With G₀ = RᵀR/‖R‖² and G_{k+1} = G_k²/s, s its Frobenius norm, λ(G_k)² ≤ s λ(G_{k+1}); the last
    one is at most 1. What each product loses in float32 is added.
    """
    whole = rows.flatten(1).norm(dim=1) * SLACK
    scaled = (rows / torch.where(whole > 0, whole, 1.0)[:, None, None]).float()
    power = scaled @ scaled.mT if rows.shape[1] < rows.shape[2] else scaled.mT @ scaled
    roundings = 4 * max(rows.shape[1], rows.shape[2]) + 64
    lost = roundings * UNIT_32 / (1 - roundings * UNIT_32) if roundings < 2**22 else 1.0
    sizes = []
    for _ in range(4):
        size = torch.linalg.vector_norm(power, dim=(1, 2), dtype=torch.float64) * SLACK + lost
        sizes.append(size)
        power = power / size[:, None, None].float()
        power = power @ power
    bound = torch.ones_like(whole)
    for size in reversed(sizes[1:]):
        bound = (size * bound + 2 * lost).sqrt()
    # Never above the Frobenius norm.
    return (sizes[0] * bound + 2 * lost).sqrt().clamp_max(1.0) * whole * SLACK


def value(node: Joint, u: Tensor) -> Tensor:
    """Apply a map to values (N, T · I)."""
    return node.function(u.unflatten(1, (node.groups, -1))).flatten(1)


def norm_up(x: Tensor) -> Tensor:
    """Return the L2 norm over the last axis, rounded up."""
    # Squares of numbers below 1e-154 may vanish.
    return (torch.linalg.vector_norm(x, dim=-1) + 1e-150) * SLACK
