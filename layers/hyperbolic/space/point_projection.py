"""A linear layer of the Poincaré ball whose outputs are space parts.

    s = ω/√c,    ω the velocities of `poincare_linear`

A velocity is split among heads by its channels, where a tangent would couple all of them.

Source: Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, §3.2 and §3.6.
Differs from it: heads are cut out of the space part, so that no β-split is needed.
"""

from typing import Any

from ..linear import PoincareLinear

__all__ = ["PointProjection"]


class PointProjection(PoincareLinear):
    """A linear layer from tangents of the ball to space parts of the hyperboloid.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        options: Those of `PoincareLinear` but `output`.

    Shape:
        (…, N) -> (…, M).

    Raises:
        ValueError: as `PoincareLinear`.
    """

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        """Make the layer."""
        super().__init__(in_features, out_features, output="space", **options)
