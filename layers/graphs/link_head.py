"""Fermi–Dirac decoder: the log-odds that two nodes are joined, from their distance.

    log-odds = (R − d²) / T,    R ≥ 0 and T > 0 learned

The probability is 1/2 at the distance √R and falls within a width that T sets.

Source: Krioukov et al. 2010, "Hyperbolic geometry of complex networks", arXiv:1006.5169; as a head
Nickel and Kiela 2017, arXiv:1705.08039, equation 5, and Chami et al. 2019, arXiv:1910.12933.
Differs from them: the log-odds are returned and not the probability, which rounds to 0 or 1 far
from R and has no gradient there; R and log T are learned.
"""

# Shape letters: B samples, K candidates or pairs, D dimensions.

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay

__all__ = ["LinkHead", "ends_of", "link_logits"]


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance in flat space, (…, D) and (…, D) -> (…)."""
    return (x - y).square().sum(-1)


def ends_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends of the pairs of samples.

    Shape:
        a node and its candidates (B, 1 + K, D) -> (B, 1, D) and (B, K, D);
        pairs (B, K, 2, D) -> (B, K, D) twice.
    """
    if x.dim() == 4:
        one, other = x.unbind(-2)
        return one, other
    return x[..., :1, :], x[..., 1:, :]


def link_logits(squared: Tensor, radius: Tensor, log_temperature: Tensor) -> Tensor:
    """Return (R − d²) / T of squared distances; R and log T broadcast."""
    return (radius - squared) * torch.exp(-log_temperature)


class LinkHead(nn.Module):
    """Log-odds of a node's candidates, or of pairs of nodes, from distances in a space.

    Args:
        squared: Squared distance of points (…, D) and (…, D); that of flat space by default.
        radius: Where R starts.
        temperature: Where T starts, above 0.

    Shape:
        a node and its candidates (B, 1 + K, D) -> (B, K), or pairs (B, K, 2, D) -> (B, K).

    Raises:
        ValueError: a temperature that is not positive.
    """

    unit_axes = {"radius": (None,), "log_temperature": (None,)}

    def __init__(
        self,
        *,
        squared: Callable[[Tensor, Tensor], Tensor] = squared_distance,
        radius: float = 2.0,
        temperature: float = 1.0,
    ) -> None:
        """Start R and T where they are told to."""
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a positive number, got {temperature}")
        self.radius = nn.Parameter(torch.tensor([float(radius)]))
        self.log_temperature = nn.Parameter(torch.tensor([float(temperature)]).log())
        exclude_from_decay(self, "radius", "log_temperature")
        self._squared = squared

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-odds."""
        return link_logits(self.squared(*ends_of(x)), *self.parameters())

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distance of points (…, D) and (…, D) in the head's space."""
        return self._squared(x, y)
