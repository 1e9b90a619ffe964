"""The geometry contract: what a backbone asks a space for.

Features travel as vectors between any two layers: plain vectors in flat space, tangents at the
origin in the ball, space parts on the hyperboloid. So activations, dropout, drop path, gates and
residuals of vectors work in every space. Queries, keys and values are space parts in both curved
spaces, since one attention serves them.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from ....layers.graphs import Neighbours
from ...network import HeadBuilder

__all__ = ["Aggregate", "Geometry", "HeadName", "NeighbourMean"]

HeadName = Literal["mlr", "linear", "distance"]
Aggregate = Literal["midpoint", "tangent"]
NeighbourMean = Callable[[Tensor, Neighbours], Tensor]


class Geometry(Protocol):
    """The layers of a space, and what residuals share with them."""

    @property
    def weight_scale(self) -> float:
        """What a matrix of flat space is multiplied by to be the same layer near the origin."""
        ...

    @property
    def norms_queries(self) -> bool:
        """Whether attention of images norms its queries and keys unless it is told otherwise."""
        ...

    @property
    def shared(self) -> dict[str, Any]:
        """What a residual mechanism may take from the space: curvature and coordinates."""
        ...

    def linear(self, in_width: int, out_width: int, *, bias: bool = True) -> nn.Module:
        """Make a linear layer (…, in_width) -> (…, out_width)."""
        ...

    def qkv(self, width: int, *, bias: bool = True) -> nn.Module:
        """Make the projection (…, width) -> (…, 3 width) to queries, keys and values."""
        ...

    def attention(self, num_heads: int, drop_rate: float = 0.0) -> nn.Module:
        """Make what attends: `(query, key, value, *, mask, causal, centre)` -> (B, H, T, D).

        Its `kept(key, value)` is what a decoder keeps of its tokens and gives back in their place,
        and its `centre_of_prompt(key, value)`, of what the first ones left, what it gives as
        `centre`.

        Raises:
            ValueError: dropout of weights, `drop_rate`, whose sums a mean of points needs.
        """
        ...

    def merge(self, heads: Tensor) -> Tensor:
        """Turn what attends gives, heads side by side (B, T, H·D), into features."""
        ...

    def layer_norm(self, width: int, eps: float = 1e-5) -> nn.Module:
        """Make a norm of (…, width) that centres its features where the space can."""
        ...

    def rms_norm(self, width: int, eps: float = 1e-5) -> nn.Module:
        """Make a norm of (…, width) by the root mean square."""
        ...

    def batch_norm(self, width: int) -> nn.Module:
        """Make a batch normalisation of (B, width)."""
        ...

    def image_norm(self, width: int) -> nn.Module:
        """Make a batch normalisation of (B, width, H, W)."""
        ...

    def conv(
        self, in_width: int, out_width: int, size: int, stride: int = 1, *, bias: bool = True
    ) -> nn.Module:
        """Make a convolution that keeps the resolution at stride 1."""
        ...

    def normed_conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Module:
        """Make the same with batch normalisation after it."""
        ...

    def pool(self) -> nn.Module:
        """Make a global pooling (B, D, H, W) -> (B, D)."""
        ...

    def mean(
        self, x: Tensor, over: int | tuple[int, ...], dim: int, weights: Tensor | None = None
    ) -> Tensor:
        """Return the centre of points whose features lie on the axis `dim`.

        Weights are not negative, broadcast over x with size 1 on `dim`, and only their ratios
        matter; None are equal ones.
        """
        ...

    def node_linear(self, in_width: int, out_width: int) -> nn.Module:
        """Make a linear layer (…, in_width) -> (…, out_width) as graph convolutions have it."""
        ...

    def neighbour_mean(self, aggregate: Aggregate | None = None) -> NeighbourMean:
        """Return what averages nodes (N, D) over their neighbourhoods; None is the space's own way.

        Raises:
            ValueError: a way of another space.
        """
        ...

    def squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the squared distance of points, (…, D) and (…, D) -> (…)."""
        ...

    def head(self, name: HeadName | None = None) -> HeadBuilder:
        """Return what makes heads; None is the space's own kind.

        Raises:
            ValueError: a head of another space.
        """
        ...

    def tied_head(self, name: HeadName | None, table: nn.Embedding) -> nn.Module:
        """Make a head whose weight is a table of embeddings; None is the space's own kind.

        Raises:
            ValueError: a head that cannot share a table.
        """
        ...

    def linear_layers(self, root: nn.Module) -> Iterator[Any]:
        """Yield the linear layers inside a module, for a backbone to draw their weights."""
        ...

    def convolutions(self, root: nn.Module) -> Iterator[Any]:
        """Yield the convolutions inside a module whose weights a backbone draws."""
        ...
