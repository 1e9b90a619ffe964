"""A linear layer whose matrix is a map of a free one: what all such layers share.

    y = W x + b,   W = compute(free matrix),   both (out_features, in_features)

A subclass says what the map is. Everything else is here: sizes, the forward with cached weights,
the plain layer that stands for it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sizes import check_sizes
from .layer import LinearWeight, LipschitzLayer, check_lipschitz
from .plain_modules import linear

__all__ = ["BoundedLinear"]


class BoundedLinear(LipschitzLayer):
    """A linear layer of norm at most L; a subclass implements `compute` and draws its start.

    Args:
        in_features: Inputs, at least 1.
        out_features: Outputs, at least 1.
        bias: Whether b is learned.
        lipschitz: L > 0.

    Shape:
        (…, in_features) -> (…, out_features).

    Raises:
        ValueError: a size below 1, or L ≤ 0.
    """

    gain: float = 1.0
    """Singular values of a fresh free matrix."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, lipschitz: float = 1.0
    ) -> None:
        """Make the free matrix and b; a subclass then calls `reset_parameters`."""
        super().__init__()
        check_sizes(1, in_features=in_features, out_features=out_features)
        self.lipschitz = check_lipschitz(lipschitz)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def reset_parameters(self) -> None:
        """Draw an orthogonal matrix times the gain, and zero b."""
        nn.init.orthogonal_(self.weight, gain=self.gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def effective(self) -> LinearWeight:
        """Return the matrix that the forward uses right now."""
        return LinearWeight(*self.weights())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and shift."""
        return F.linear(x, self.weights()[0], self.bias)

    @torch.no_grad()
    def export(self) -> nn.Linear:
        """Return the plain linear layer."""
        return linear(self.weights()[0], self.bias)

    def extra_repr(self) -> str:
        """Show the sizes and the bound."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"lipschitz={self.lipschitz:g}"
        )
