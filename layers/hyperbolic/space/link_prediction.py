"""Links between points by their distance: the Fermi–Dirac decoder as logits.

    P(link) = σ((R − d²)/T) = 1/(exp((d² − R)/T) + 1)

Logits of it keep their gradient where the probability is 0 or 1 to rounding, with
`binary_cross_entropy_with_logits`.

Source: Krioukov et al. 2010, "Hyperbolic geometry of complex networks"; as a decoder Chami et al.
2019, arXiv:1910.12933, §4.2.
Differs from them: logits; R and T are learned, T as an exponential; no distance is held at 50.
"""

import math

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay

__all__ = ["LinkPrediction"]


class LinkPrediction(nn.Module):
    """Logits (R − d²)/T of links, from squared distances.

    Args:
        radius: R as it starts.
        temperature: T as it starts, above 0.

    Shape:
        (…) -> (…).

    Raises:
        ValueError: a temperature that is not positive.
    """

    output = "logits"

    def __init__(self, *, radius: float = 2.0, temperature: float = 1.0) -> None:
        """Make R and log T."""
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a positive number, got {temperature}")
        self.first = (radius, math.log(temperature))
        self.radius = nn.Parameter(torch.empty(()))
        self.log_temperature = nn.Parameter(torch.empty(()))
        exclude_from_decay(self, "radius", "log_temperature")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set R and T as they start."""
        for parameter, value in zip((self.radius, self.log_temperature), self.first, strict=True):
            nn.init.constant_(parameter, value)

    def forward(self, squared_distance: Tensor) -> Tensor:
        """Return the logits."""
        return (self.radius - squared_distance) * (-self.log_temperature).exp()
