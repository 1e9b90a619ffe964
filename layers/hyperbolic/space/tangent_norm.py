"""RMS normalisation of tangents that says how far from the origin points lie.

    out = g t/√(mean t² + ε) · min(1, τ₀/(2√(cD)))

An ordinary norm gives tangents the length √D and thus puts all points at τ = 2√(cD) radii: 28 for
192 channels at c = 1, where layers end at 30. This one ends at τ₀, and is the RMS norm where τ is
shorter, as in flat space. Norms of space parts need no such care: √D there lies at asinh(√(cD)).

Source: ours, after Zhang & Sennrich 2019, "Root mean square layer normalization",
arXiv:1910.07467.
Differs from it: the factor.
"""

# Shape letters: D channels.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sizes import check_sizes
from .._fast.fused_rows import fused_row_norm
from ..curvature import BallCurvature, curvature_of
from ..maths.ball import Curvature, check_curvature, in_float32, root
from ..maths.shape_checks import check_shape

__all__ = ["TangentNorm", "tangent_norm"]


@in_float32
def tangent_norm(
    t: Tensor,
    weight: Tensor | None,
    curvature: Curvature,
    *,
    radius: float = 2.0,
    eps: float = 1e-6,
) -> Tensor:
    """Return normed tangents (…, D), at τ = min(2√(cD), radius) from the origin where g is 1.

    Args:
        t: Tangents at the origin of the ball.
        weight: g (D,); None is 1.
        curvature: c.
        radius: τ₀ > 0.
        eps: Added to the mean square.

    Raises:
        ValueError: a curvature that is not positive, a dtype other than a float's, or another
            shape.
    """
    check_curvature(curvature)
    width = t.shape[-1]
    if weight is not None:
        check_shape("weight", weight, width)
    reach = 2 * root(curvature) * width**0.5 / radius
    share = 1 / reach.clamp_min(1.0) if isinstance(reach, Tensor) else min(1.0, 1 / reach)
    found = fused_row_norm(t, weight, share, eps)
    return share * F.rms_norm(t, (width,), weight, eps) if found is None else found


class TangentNorm(nn.Module):
    """RMS normalisation of the ball's tangents.

    Args:
        num_features: D, at least 1.
        curvature: c, or a shared `BallCurvature`.
        radius: τ₀ > 0, the largest distance from the origin in radii at a gain of 1.
        eps: Added to the mean square, above 0.

    Shape:
        (…, D) -> (…, D).

    Raises:
        ValueError: a size or number out of range; at the call, another shape.
    """

    def __init__(
        self,
        num_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        radius: float = 2.0,
        eps: float = 1e-6,
    ) -> None:
        """Make gains of 1."""
        super().__init__()
        check_sizes(1, num_features=num_features)
        for name, number in {"radius": radius, "eps": eps}.items():
            if not number > 0:
                raise ValueError(f"{name} must be above 0, got {number}")
        self.curvature = curvature_of(curvature)
        self.radius, self.eps = radius, eps
        self.weight = nn.Parameter(torch.ones(num_features))

    def reset_parameters(self) -> None:
        """Set the gains to 1."""
        nn.init.ones_(self.weight)

    def forward(self, t: Tensor) -> Tensor:
        """Norm tangents."""
        check_shape("t", t, "…", len(self.weight))
        return tangent_norm(t, self.weight, self.curvature(), radius=self.radius, eps=self.eps)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{len(self.weight)}, radius={self.radius}, eps={self.eps}"
