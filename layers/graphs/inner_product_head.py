"""Inner-product decoder: the log-odds that two nodes are joined, from their inner product.

    log-odds = a ⟨x, y⟩ + b,    a > 0 and b learned

Source: Kipf and Welling 2016, "Variational graph auto-encoders", arXiv:1611.07308, equation 2.
Differs from it: a and b, without which the odds of a pair at a right angle are even.
"""

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay
from .link_head import ends_of

__all__ = ["InnerProductHead"]


class InnerProductHead(nn.Module):
    """Log-odds of pairs of nodes in flat space, from their inner products.

    Shape:
        as that of `LinkHead`.
    """

    unit_axes = {"log_scale": (None,), "bias": (None,)}

    def __init__(self) -> None:
        """Start with a = 1 and b = 0."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))
        exclude_from_decay(self, "log_scale", "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-odds."""
        one, other = ends_of(x)
        return (one * other).sum(-1) * self.log_scale.exp() + self.bias
