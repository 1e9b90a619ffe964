"""Graph convolution: a linear map of every node, and the mean over neighbourhoods.

    y = σ(Â (W h + b))

Source: Kipf and Welling 2017, "Semi-supervised classification with graph convolutional networks",
arXiv:1609.02907, equation 2.
Differs from it: the bias comes before the mean, as in arXiv:1910.12933. Where rows of Â sum to one
that is the same.
"""

# Shape letters: N nodes, D input and O output channels.

from collections.abc import Callable

from torch import Tensor, nn

from ..units import Units, UnitTrace
from .adjacency import Neighbours
from .neighbour_means import neighbour_mean

__all__ = ["GraphConvolution"]


class GraphConvolution(nn.Module):
    """A layer over all nodes of a graph, made of the parts of a space.

    Args:
        linear: Maps each node, (N, D) -> (N, O).
        activation: Comes last.
        mean: Averages over neighbourhoods; that of flat space by default.
        drop_rate: Dropout of the outputs, in [0, 1).

    Shape:
        h (N, D), neighbours of N nodes -> (N, O).
    """

    def __init__(
        self,
        linear: nn.Module,
        activation: nn.Module,
        *,
        mean: Callable[[Tensor, Neighbours], Tensor] = neighbour_mean,
        drop_rate: float = 0.0,
    ) -> None:
        """Keep the parts."""
        super().__init__()
        self.linear, self.activation = linear, activation
        self.dropout = nn.Dropout(drop_rate)
        self._mean = mean

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """A mean over neighbours leaves channels where they are."""
        return trace.chain(x, self.linear, self.activation)

    def forward(self, h: Tensor, neighbours: Neighbours) -> Tensor:
        """Map, average, bend."""
        return self.dropout(self.activation(self._mean(self.linear(h), neighbours)))
