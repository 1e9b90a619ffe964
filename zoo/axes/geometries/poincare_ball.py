"""The Poincaré ball, one for all layers; features are tangents at its origin."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ....layers.graphs import MobiusLinear, Neighbours, midpoints, tangent_means
from ....layers.hyperbolic import (
    BallCurvature,
    HyperbolicAttention,
    LorentzPrototypes,
    MidpointBatchNorm,
    MidpointPool,
    PoincareConv2d,
    PoincareLinear,
    PoincareMLR,
    PointProjection,
    TangentNorm,
    midpoint_pool,
    space_points,
)
from ...network import HeadBuilder
from .contract import Aggregate, HeadName, NeighbourMean
from .euclidean_space import Euclidean, vector_mean

__all__ = ["Init", "Poincare", "attention_of_points", "mean_of_points", "tied_prototypes"]

Init = Literal["identity", "dirac", "normal"]


@dataclass(frozen=True)
class Poincare:
    """The Poincaré ball.

    Args:
        ball: The curvature.
        init: How fresh weights of convolutions and linear layers are set; None draws those of
            linear layers as flat ones are, so that they are the same layers near the origin.
        averaging: `midpoint` pools pixels to their midpoint, `tangent` averages their tangents.
    """

    ball: BallCurvature
    init: Init | None = "normal"
    averaging: Literal["midpoint", "tangent"] = "midpoint"
    weight_scale = 0.5  # distances from the origin are twice a tangent's norm
    norms_queries = True

    @property
    def shared(self) -> dict[str, Any]:
        """The curvature, and that points are told by their tangents."""
        return {"curvature": self.ball, "coordinates": "tangent"}

    def linear(self, in_width: int, out_width: int, *, bias: bool = True) -> PoincareLinear:
        """Make a linear layer of the ball; on one point `dirac` is `identity`."""
        init = "identity" if self.init == "dirac" else self.init or "normal"
        layer = PoincareLinear(in_width, out_width, curvature=self.ball, bias=bias, init=init)
        return self._drawn(layer)

    def qkv(self, width: int, *, bias: bool = True) -> PointProjection:
        """Make a linear layer from tangents to space parts, which split by heads."""
        return self._drawn(
            PointProjection(width, 3 * width, curvature=self.ball, bias=bias, init="normal")
        )

    def _drawn(self, layer: Any) -> Any:
        """Draw a fresh weight as that of `nn.Linear`, where no init is asked for."""
        if self.init is None:
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            with torch.no_grad():
                layer.weight.mul_(self.weight_scale)
        return layer

    def attention(self, num_heads: int, drop_rate: float = 0.0) -> HyperbolicAttention:
        """Make attention of points."""
        return attention_of_points(num_heads, drop_rate, self.ball)

    def merge(self, heads: Tensor) -> Tensor:
        """Read the heads side by side as one point, and return its tangent."""
        return space_points.to_tangent(heads, self.ball())

    def layer_norm(self, width: int, eps: float = 1e-5) -> TangentNorm:
        """Make the RMS norm of tangents, which says how far from the origin points lie."""
        return self.rms_norm(width, eps)

    def rms_norm(self, width: int, eps: float = 1e-5) -> TangentNorm:
        """Make the RMS norm of tangents."""
        return TangentNorm(width, curvature=self.ball, eps=eps)

    def batch_norm(self, width: int) -> MidpointBatchNorm:
        """Make midpoint batch normalisation."""
        return MidpointBatchNorm(width, curvature=self.ball, dim=-1)

    def image_norm(self, width: int) -> MidpointBatchNorm:
        """Make midpoint batch normalisation."""
        return MidpointBatchNorm(width, curvature=self.ball)

    def conv(
        self, in_width: int, out_width: int, size: int, stride: int = 1, *, bias: bool = True
    ) -> PoincareConv2d:
        """Make a convolution of the ball."""
        return self._conv(in_width, out_width, size, stride, "tangent", bias)

    def normed_conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Module:
        """Make a convolution and midpoint batch normalisation, with no map between them."""
        return nn.Sequential(
            self._conv(in_width, out_width, size, stride, "velocity", True),
            MidpointBatchNorm(out_width, curvature=self.ball, input="velocity"),
        )

    def _conv(
        self,
        in_width: int,
        out_width: int,
        size: int,
        stride: int,
        output: Literal["tangent", "velocity"],
        bias: bool,
    ) -> PoincareConv2d:
        return PoincareConv2d(
            in_width,
            out_width,
            size,
            stride=stride,
            padding=size // 2,
            curvature=self.ball,
            bias=bias,
            init=self.init or "normal",
            output=output,
        )

    def pool(self) -> nn.Module:
        """Pool the pixels as `averaging` says."""
        if self.averaging == "midpoint":
            return MidpointPool(curvature=self.ball)
        return Euclidean().pool()

    def mean(
        self, x: Tensor, over: int | tuple[int, ...], dim: int, weights: Tensor | None = None
    ) -> Tensor:
        """Return midpoints, or means of tangents, as `averaging` says."""
        if self.averaging == "midpoint":
            return midpoint_pool(x, self.ball(), weights, over=over, dim=dim)
        return vector_mean(x, over, weights)

    def node_linear(self, in_width: int, out_width: int) -> MobiusLinear:
        """Make a matrix of tangents and a translation, as hyperbolic graph networks have it."""
        return MobiusLinear(in_width, out_width, curvature=self.ball)

    def neighbour_mean(self, aggregate: Aggregate | None = None) -> NeighbourMean:
        """Return means of tangents, or midpoints."""
        return mean_of_points(aggregate or "tangent", self.ball, "tangent")

    def squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the squared geodesic distance, from space parts."""
        c = self.ball()
        x, y = (space_points.from_tangent(t, c) for t in (x, y))
        return space_points.squared_distance(x, y, c)

    def head(self, name: HeadName | None = None) -> HeadBuilder:
        """Return distances to hyperplanes or to points, or a layer whose tangents are logits."""
        if name in (None, "mlr"):
            return functools.partial(PoincareMLR, curvature=self.ball)
        if name == "linear":
            return functools.partial(PoincareLinear, curvature=self.ball)
        if name == "distance":
            return functools.partial(LorentzPrototypes, curvature=self.ball, input="tangent")
        raise ValueError(f"head must be 'mlr', 'linear' or 'distance', got {name!r}")

    def tied_head(self, name: HeadName | None, table: nn.Embedding) -> LorentzPrototypes:
        """Make a head of distances to the points of a table of tangents."""
        return tied_prototypes(name, table, self.ball, input="tangent")

    def linear_layers(self, root: nn.Module) -> Iterator[PoincareLinear]:
        """Yield the linear layers."""
        return (module for module in root.modules() if isinstance(module, PoincareLinear))

    def convolutions(self, root: nn.Module) -> Iterator[nn.Conv2d]:
        """Yield the ordinary ones; those of the ball have weights that end near the origin."""
        return Euclidean().convolutions(root)


def mean_of_points(
    aggregate: Aggregate, ball: BallCurvature, points_as: Literal["tangent", "space"]
) -> NeighbourMean:
    """Return what averages points over neighbourhoods.

    Raises:
        ValueError: an unknown way.
    """
    ways = {"midpoint": midpoints, "tangent": tangent_means}
    if aggregate not in ways:
        raise ValueError(f"aggregate must be 'midpoint' or 'tangent', got {aggregate!r}")
    return functools.partial(_mean_of_points, ways[aggregate], ball, points_as)


def _mean_of_points(
    mean: Callable[..., Tensor],
    ball: BallCurvature,
    points_as: Literal["tangent", "space"],
    h: Tensor,
    neighbours: Neighbours,
) -> Tensor:
    return mean(h, neighbours, ball(), points_as)


def attention_of_points(
    num_heads: int, drop_rate: float, ball: BallCurvature
) -> HyperbolicAttention:
    """Make attention of points, without dropout.

    Raises:
        ValueError: a rate above 0.
    """
    if drop_rate > 0:
        raise ValueError(
            f"attn_drop_rate={drop_rate} needs geometry='euclidean': a mean of points has weights "
            f"that sum to one, and dropout leaves other sums; use drop_rate or drop_path_rate"
        )
    return HyperbolicAttention(num_heads, curvature=ball)


def tied_prototypes(
    name: HeadName | None,
    table: nn.Embedding,
    ball: BallCurvature,
    *,
    input: Literal["space", "tangent"],
) -> LorentzPrototypes:
    """Make a head of distances to the points of a table.

    Raises:
        ValueError: another kind of head.
    """
    if name not in (None, "distance"):
        raise ValueError(
            f"a head that shares the table of embeddings is 'distance' in a curved space, "
            f"got head={name!r}; give num_classes for one of its own"
        )
    sizes = table.embedding_dim, table.num_embeddings
    head = LorentzPrototypes(*sizes, curvature=ball, input=input)
    head.weight = cast(nn.Parameter, table.weight)
    return head
