"""Flat space: ordinary layers, and the ball of a hyperbolic head or a residual of points."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ....layers.graphs import neighbour_mean
from ....layers.hyperbolic import BallCurvature, PoincareMLR
from ...network import HeadBuilder, linear_head
from .contract import Aggregate, HeadName, NeighbourMean
from .vector_layers import VectorLayers

__all__ = ["Euclidean", "ScaledDotProduct", "vector_mean"]


def vector_mean(x: Tensor, over: int | tuple[int, ...], weights: Tensor | None) -> Tensor:
    """Return the weighted mean of vectors; equal weights where there are none."""
    if weights is None:
        return x.mean(over)
    return (x * weights).sum(over) / weights.sum(over)


class ScaledDotProduct(nn.Module):
    """Scaled dot-product attention, which needs no parameters and no centre.

    Args:
        drop_rate: Dropout of the weights in training, in [0, 1).
    """

    unit_axes = {}

    def __init__(self, drop_rate: float = 0.0) -> None:
        """Keep the rate."""
        super().__init__()
        self.drop_rate = drop_rate

    def kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return both as they are."""
        return key, value

    def centre_of_prompt(self, key: Tensor, value: Tensor) -> None:
        """Return None: nothing is moved."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        centre: None = None,
    ) -> Tensor:
        """Attend (B, H, T, D)."""
        dropped = self.drop_rate if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropped, causal)


@dataclass(frozen=True)
class Euclidean(VectorLayers):
    """Flat space.

    Args:
        ball: Where an `mlr` head and a residual of points lie; None where there is neither, or the
            residual has its own.
    """

    ball: BallCurvature | None = None
    norms_queries = False

    @property
    def shared(self) -> dict[str, Any]:
        """The curvature, for a residual of points over flat layers."""
        return {} if self.ball is None else {"curvature": self.ball}

    def linear(self, in_width: int, out_width: int, *, bias: bool = True) -> nn.Linear:
        """Make an ordinary linear layer."""
        return nn.Linear(in_width, out_width, bias=bias)

    def attention(self, num_heads: int, drop_rate: float = 0.0) -> ScaledDotProduct:
        """Make scaled dot-product attention."""
        return ScaledDotProduct(drop_rate)

    def conv(
        self, in_width: int, out_width: int, size: int, stride: int = 1, *, bias: bool = True
    ) -> nn.Conv2d:
        """Make an ordinary convolution."""
        return nn.Conv2d(in_width, out_width, size, stride, padding=size // 2, bias=bias)

    def pool(self) -> nn.Module:
        """Average the pixels."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))

    def mean(
        self, x: Tensor, over: int | tuple[int, ...], dim: int, weights: Tensor | None = None
    ) -> Tensor:
        """Average."""
        return vector_mean(x, over, weights)

    def neighbour_mean(self, aggregate: Aggregate | None = None) -> NeighbourMean:
        """Return the mean of vectors, the only one."""
        if aggregate is not None:
            raise ValueError(
                f"geometry='euclidean' has one mean, got aggregate={aggregate!r}; leave it out, or "
                f"choose another geometry"
            )
        return neighbour_mean

    def squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ‖x − y‖²."""
        return (x - y).square().sum(-1)

    def head(self, name: HeadName | None = None) -> HeadBuilder:
        """Return a linear head, or the ball's."""
        if name in (None, "linear"):
            return linear_head
        if name != "mlr" or self.ball is None:
            raise ValueError(
                f"head must be 'linear' or 'mlr' with geometry='euclidean', got {name!r}"
            )
        return functools.partial(PoincareMLR, curvature=self.ball)

    def tied_head(self, name: HeadName | None, table: nn.Embedding) -> nn.Linear:
        """Make a linear head without a bias."""
        if name not in (None, "linear"):
            raise ValueError(
                f"a head that shares the table of embeddings is 'linear' with "
                f"geometry='euclidean', got head={name!r}; give num_classes for one of its own"
            )
        head = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False)
        head.weight = table.weight
        return head

    def linear_layers(self, root: nn.Module) -> Iterator[nn.Linear]:
        """Yield the linear layers."""
        return (module for module in root.modules() if isinstance(module, nn.Linear))

    def convolutions(self, root: nn.Module) -> Iterator[nn.Conv2d]:
        """Yield the convolutions."""
        return (module for module in root.modules() if isinstance(module, nn.Conv2d))
