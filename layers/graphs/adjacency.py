"""Weighted neighbourhoods of a graph's nodes.

With the adjacency matrix A of an undirected graph, its self-loops I and D the diagonal of row sums
of A + I, features are averaged by Â h with

    row          Â = D⁻¹ (A + I), whose rows sum to one
    symmetric    Â = D^(−1/2) (A + I) D^(−1/2)

Sources: symmetric, Kipf and Welling 2017, arXiv:1609.02907, §2.2; row, Chami et al. 2019,
arXiv:1910.12933.
"""

# Shape letters: N nodes, E edges, M = 2 E + N entries of Â, D channels.

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Neighbours", "Normalise", "neighbour_sum", "neighbours_of", "shares_of"]

Normalise = Literal["row", "symmetric"]


class Neighbours(NamedTuple):
    """The entries of Â: `weight[i]` stands in the row `target[i]` and the column `source[i]`.

    Rows and columns are int64 (M,), weights of a float's dtype (M,).
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    cache: Any = None

    @property
    def transposed(self) -> "Neighbours":
        """The entries of the transpose."""
        return Neighbours(self.target, self.source, self.weight)


def neighbours_of(
    edges: Tensor, num_nodes: int, normalise: Normalise, dtype: torch.dtype = torch.float32
) -> Neighbours:
    """Tabulate Â.

    Args:
        edges: Undirected, each once, int64 (E, 2). An edge of a node to itself counts as none:
            every node has one self-loop.
        num_nodes: N.
        normalise: Which Â.
        dtype: Of the weights, float32 or wider: bfloat16 counts to 256.

    Raises:
        ValueError: an unknown `normalise`.
    """
    if normalise not in ("row", "symmetric"):
        raise ValueError(f"normalise must be 'row' or 'symmetric', got {normalise!r}")
    u, v = edges.unbind(1)
    itself = torch.arange(num_nodes, device=edges.device)
    source, target = torch.cat([u, v, itself]), torch.cat([v, u, itself])
    one = torch.ones(num_nodes, device=edges.device, dtype=dtype)
    there = (u != v).to(dtype)
    entries = torch.cat([there, there, one])
    degree = torch.zeros_like(one).index_add(0, target, entries)
    if normalise == "row":
        return Neighbours(source, target, entries / degree[target])
    return Neighbours(source, target, entries * (degree[source] * degree[target]).rsqrt())


def shares_of(neighbours: Neighbours) -> Neighbours:
    """Divide each row of Â by its sum."""
    source, target, weight, _ = neighbours
    # As many rows as there are self-loops, which no neighbourhood lacks.
    total = torch.zeros_like(weight).index_add(0, target, weight)
    return Neighbours(source, target, weight / total[target])


def neighbour_sum(h: Tensor, neighbours: Neighbours) -> Tensor:
    """Return Â h in the dtype of h, (N, D) -> (N, D)."""
    source, target, weight, _ = neighbours
    sent = h.index_select(0, source) * weight.to(h.dtype)[:, None]
    return torch.zeros_like(h).scatter_add(0, target[:, None].expand_as(sent), sent)
