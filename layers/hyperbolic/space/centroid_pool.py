"""Global pooling of images of the hyperboloid to the centre of mass of their pixels.

Lipschitz: no constant holds for all space parts. Two points R from the origin whose geodesic is
some radii long have a centre some radii nearer to the origin, in space parts R times as far as the
points need to move for it. So a network that pools by centres of mass has no certificate.

Source: Law et al. 2019, "Lorentzian distance learning for hyperbolic representations", eq. 9.
Differs from it: space parts (`space_points.centroid`).
"""

from torch import Tensor, nn

from ..curvature import BallCurvature, curvature_of
from ..maths.shape_checks import check_shape
from .space_points import centroid

__all__ = ["CentroidPool"]


class CentroidPool(nn.Module):
    """Global pooling of an image to the centre of mass of its pixels, space parts in and out.

    Args:
        curvature: c, or a shared `BallCurvature`.

    Shape:
        (B, D, H, W) -> (B, D).

    Raises:
        ValueError: at the call: another shape.
    """

    unit_axes = {}

    input = output = "space"

    def __init__(self, *, curvature: float | BallCurvature = 1.0) -> None:
        """Keep the curvature."""
        super().__init__()
        self.curvature = curvature_of(curvature)

    def forward(self, s: Tensor) -> Tensor:
        """Pool the pixels."""
        check_shape("s", s, "B", "D", "H", "W")
        return centroid(s, self.curvature(), over=(2, 3), dim=1)
