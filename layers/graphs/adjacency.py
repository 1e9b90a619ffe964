"""Weighted neighbourhoods of a graph's nodes, and the mean over them.

With the adjacency matrix A of an undirected graph, its self-loops I and D the diagonal of row sums
of A + I, the mean is Â h for

    row          Â = D⁻¹ (A + I), whose rows sum to one
    symmetric    Â = D^(−1/2) (A + I) D^(−1/2)

Sources: symmetric, Kipf and Welling 2017, arXiv:1609.02907, §2.2; row, Chami et al. 2019,
arXiv:1910.12933.
"""

# Shape letters: N nodes, E edges, M = 2 E + N entries of Â, D channels.

from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Neighbours", "Normalise", "neighbour_mean", "neighbours_of"]

Normalise = Literal["row", "symmetric"]


class Neighbours(NamedTuple):
    """The entries of Â: `weight[i]` stands in the row `target[i]` and the column `source[i]`.

    Rows and columns are int64 (M,), weights float32 (M,).
    """

    source: Tensor
    target: Tensor
    weight: Tensor


def neighbours_of(edges: Tensor, num_nodes: int, normalise: Normalise) -> Neighbours:
    """Tabulate Â.

    Args:
        edges: Undirected, each once, int64 (E, 2). An edge of a node to itself counts as none:
            every node has one self-loop.
        num_nodes: N.
        normalise: Which Â.

    Raises:
        ValueError: an unknown `normalise`.
    """
    if normalise not in ("row", "symmetric"):
        raise ValueError(f"normalise must be 'row' or 'symmetric', got {normalise!r}")
    u, v = edges.unbind(1)
    itself = torch.arange(num_nodes, device=edges.device)
    source, target = torch.cat([u, v, itself]), torch.cat([v, u, itself])
    # In float32 whatever the model computes in: bfloat16 counts to 256.
    one = torch.ones(num_nodes, device=edges.device)
    there = (u != v).float()
    entries = torch.cat([there, there, one])
    degree = torch.zeros_like(one).index_add(0, target, entries)
    if normalise == "row":
        return Neighbours(source, target, entries / degree[target])
    return Neighbours(source, target, entries * (degree[source] * degree[target]).rsqrt())


def neighbour_mean(h: Tensor, neighbours: Neighbours) -> Tensor:
    """Average features over neighbourhoods: Â h.

    Shape:
        (N, D) -> (N, D).
    """
    source, target, weight = neighbours
    sent = h.index_select(0, source) * weight.to(h.dtype)[:, None]
    return torch.zeros_like(h).scatter_add(0, target[:, None].expand_as(sent), sent)
