"""Centres of mass of neighbourhoods of points of the hyperboloid, by their space parts.

With the shares P of neighbours, whose rows sum to one, and the height h of a point above the origin

    [S, n] = P [s, h(s)],    out = S/√f,    f = (1 + cn)² − c‖S‖² ≥ 1

one sparse product with D + 1 columns. f is off by about ε cosh²(R) at R radii from the origin:
float32 serves to some 6 of them.

Source: Chen et al. 2022, "Fully hyperbolic neural networks", arXiv:2105.14686, §3.3.
Differs from it: space parts; the rows of Â are divided by their sums, where they have others.
"""

from torch import Tensor

from ..hyperbolic import drop, lift
from .adjacency import Neighbours, neighbour_sum

__all__ = ["centroids_of_shares"]


def centroids_of_shares(s: Tensor, shares: Neighbours, curvature: float | Tensor) -> Tensor:
    """Return the centres of mass (N, D) of space parts (N, D), weighed by rows that sum to one."""
    return drop(neighbour_sum(lift(s, curvature), shares), curvature)
