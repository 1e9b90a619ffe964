"""Relaxations of maps of several values: norms, choices, and anything with a constant."""

# Shape letters: N samples, K rows, T groups, I and O inputs and outputs of a group.

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma
from ..graph import Joint
from .choices import CHOICES, Choice
from .normalisation import Normalisation, normalised
from .relaxation import SLACK, Pulled, Reach, Relaxation, norm_up, steepest, value

__all__ = ["relaxed"]


def relaxed(node: Joint, reach: Reach, error: Tensor) -> Relaxation:
    """Return the relaxation of a map.

    Args:
        node: The map.
        reach: Of what it reads.
        error: How far the evaluation of what it reads may be from the reach (N,).
    """
    norm = normalised(node)
    if norm is not None:
        return Normalisation(node, reach, error, *norm)
    if node.kind in CHOICES:
        return Choice(node, reach)
    return _Constant(node, reach)


class _Constant(Relaxation):
    """‖s − s₀‖ ≤ L ‖u − u₀‖."""

    def __init__(self, node: Joint, reach: Reach) -> None:
        self.inputs = reach.low.shape[1]
        self.steepest = torch.full_like(reach.length, node.lipschitz)
        self.value = value(node, reach.middle)
        self.radius = node.lipschitz * reach.length * SLACK
        self.lost = node.rounding * (max(1.0, node.lipschitz) * reach.size + norm_up(self.value))
        self.size = (norm_up(self.value) + self.radius + self.lost) * SLACK

    def pull(self, rows: Tensor, length: Tensor) -> Pulled:
        shift = (rows @ self.value[:, :, None])[..., 0]
        error = length * (self.lost + gamma(rows.shape[2] + 8) * norm_up(self.value))[:, None]
        left = rows.new_zeros(len(shift), rows.shape[1], self.inputs)
        return Pulled(left, 0.0 * length, shift, length * self.radius[:, None], error)

    def stretch(self, rows: Tensor, pulled: Pulled) -> Tensor:
        return torch.minimum(super().stretch(rows, pulled), steepest(rows) * self.radius)
