"""The Poincaré ball as a manifold of geoopt, for its parameters and optimisers. Imports geoopt.

geoopt supplies `ManifoldParameter` and the Riemannian optimisers; what these call is our own pure
functions, so that a point keeps the margin of `ball.MARGINS` in float32 as everywhere else, and the
curvature is a number that no cast rounds and no device holds.

Source: Nickel and Kiela 2017, "Poincaré embeddings for learning hierarchical representations",
arXiv:1705.08039, eqs. 3 and 5, for the gradient and the retraction.
Differs from geoopt's `PoincareBall`: its margin of 4e-3 in float32 keeps points within a distance
of 6.2/√c from the origin, ours of 1e-5 within 12.2/√c; its curvature is a float32 tensor.
"""

# Symbols: x, y points, u, v tangent vectors at x, λ the conformal factor.

import torch
from torch import Tensor

from .. import poincare
from ..maths.ball import check_curvature, furthest_read, in_float32, project
from .quiet_geoopt import geoopt

__all__ = ["Ball"]


@in_float32
def _retract(x: Tensor, u: Tensor, curvature: float, *, margin: float | None = None) -> Tensor:
    return project(x + u, curvature, margin=margin)


class Ball(geoopt.Manifold):
    """The ball of sectional curvature −c, points on the last axis.

    Args:
        curvature: c, a positive number.

    Raises:
        ValueError: a curvature that is not positive.
    """

    name = "Poincaré ball"
    ndim = 1
    reversible = False

    def __init__(self, curvature: float = 1.0) -> None:
        """Keep c."""
        super().__init__()
        check_curvature(curvature)
        self.curvature = float(curvature)

    def _check_point_on_manifold(
        self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        inside = bool((self.curvature * x.square().sum(-1) < 1).all())
        return inside, None if inside else f"norms must be below {self.curvature**-0.5:g}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return True, None

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Return the geodesic distance."""
        found = poincare.distance(x, y, self.curvature)
        return found.unsqueeze(-1) if keepdim else found

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Return λ_x² ⟨u, v⟩, v = u where it is left out."""
        product = (u * (u if v is None else v)).sum(-1, keepdim=True)
        found = poincare.conformal_factor(x, self.curvature).square() * product
        return found if keepdim else found.squeeze(-1)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the Riemannian gradient u/λ_x² of a Euclidean gradient u."""
        return u / poincare.conformal_factor(x, self.curvature).square()

    def projx(self, x: Tensor) -> Tensor:
        """Return x, held inside the margin of its dtype."""
        return _retract(x, torch.zeros_like(x), self.curvature)

    def held(self, x: Tensor) -> Tensor:
        """Return x with the points that nothing reads as they are moved onto the margin.

        Those between the margin and what is still read, where rounding leaves them, stay bit for
        bit, so that a table is loaded as it was saved.
        """
        square = self.curvature * x.double().square().sum(-1, keepdim=True)
        inside = square <= furthest_read(x.dtype) ** 2
        return x if bool(inside.all()) else torch.where(inside, x, self.projx(x))

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Return u: every vector is tangent to an open ball."""
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Return x + u, held inside the margin: the exponential map to first order."""
        return _retract(x, u, self.curvature)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the end of the geodesic from x along u."""
        return poincare.expmap(x, u, self.curvature)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the tangent at x whose geodesic ends in y."""
        return poincare.logmap(x, y, self.curvature)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Return v carried from x to y along their geodesic."""
        return poincare.parallel_transport(x, y, v, self.curvature)
