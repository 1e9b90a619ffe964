"""The hyperboloid; features are the space parts of its points, and their time is never carried.

Norms, activations, means over weights and residuals of vectors are those of flat space, and for
c → 0 so is every layer.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ....layers.hyperbolic import (
    BallCurvature,
    CentroidPool,
    HyperbolicAttention,
    LorentzConv2d,
    LorentzLinear,
    LorentzMLR,
    LorentzPrototypes,
    space_points,
)
from ...network import HeadBuilder, linear_head
from .contract import Aggregate, HeadName, NeighbourMean
from .poincare_ball import attention_of_points, mean_of_points, tied_prototypes
from .vector_layers import VectorLayers

__all__ = ["Lorentz"]


@dataclass(frozen=True)
class Lorentz(VectorLayers):
    """The hyperboloid.

    Args:
        ball: The curvature.
    """

    ball: BallCurvature
    norms_queries = True

    @property
    def shared(self) -> dict[str, Any]:
        """The curvature, and that points are told by their space parts."""
        return {"curvature": self.ball, "coordinates": "space"}

    def linear(self, in_width: int, out_width: int, *, bias: bool = True) -> LorentzLinear:
        """Make a linear layer of the hyperboloid."""
        return LorentzLinear(in_width, out_width, curvature=self.ball, bias=bias)

    def attention(self, num_heads: int, drop_rate: float = 0.0) -> HyperbolicAttention:
        """Make attention of points."""
        return attention_of_points(num_heads, drop_rate, self.ball)

    def conv(
        self, in_width: int, out_width: int, size: int, stride: int = 1, *, bias: bool = True
    ) -> LorentzConv2d:
        """Make a convolution of the hyperboloid."""
        return LorentzConv2d(
            in_width,
            out_width,
            size,
            stride=stride,
            padding=size // 2,
            curvature=self.ball,
            bias=bias,
        )

    def pool(self) -> nn.Module:
        """Pool the pixels to their centre of mass."""
        return CentroidPool(curvature=self.ball)

    def mean(
        self, x: Tensor, over: int | tuple[int, ...], dim: int, weights: Tensor | None = None
    ) -> Tensor:
        """Return centres of mass."""
        return space_points.centroid(x, self.ball(), weights, over=over, dim=dim)

    def neighbour_mean(self, aggregate: Aggregate | None = None) -> NeighbourMean:
        """Return centres of mass, or means of tangents at the origin."""
        return mean_of_points(aggregate or "midpoint", self.ball, "space")

    def squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the squared geodesic distance."""
        return space_points.squared_distance(x, y, self.ball())

    def head(self, name: HeadName | None = None) -> HeadBuilder:
        """Return distances to hyperplanes or to points, or a linear layer of space parts."""
        if name in (None, "mlr"):
            return functools.partial(LorentzMLR, curvature=self.ball)
        if name == "linear":
            return linear_head
        if name == "distance":
            return functools.partial(LorentzPrototypes, curvature=self.ball)
        raise ValueError(f"head must be 'mlr', 'linear' or 'distance', got {name!r}")

    def tied_head(self, name: HeadName | None, table: nn.Embedding) -> LorentzPrototypes:
        """Make a head of distances to the points of a table."""
        return tied_prototypes(name, table, self.ball, input="space")

    def linear_layers(self, root: nn.Module) -> Iterator[LorentzLinear]:
        """Yield the linear layers."""
        return (module for module in root.modules() if isinstance(module, LorentzLinear))

    def convolutions(self, root: nn.Module) -> Iterator[Any]:
        """Yield the convolutions of the hyperboloid, and the ordinary ones beside them."""
        kinds = (LorentzConv2d, nn.Conv2d)
        return (module for module in root.modules() if isinstance(module, kinds))
