"""How well distances tell the neighbours of a node from all other nodes: mean rank and MAP.

For a relation (u, v), b is the number of nodes that are no neighbours of u and lie nearer to u than
v does. Its rank is 1 + b. The average precision of u, with the evaluated neighbours of u sorted by
distance, is the mean over k = 1 … n of k/(k + b_k): the share of neighbours among the nodes up to
the k-th. The mean rank is over relations, the MAP over nodes with a neighbour.

Source: Nickel and Kiela 2017, arXiv:1705.08039, §4.1.
Differs from it: of two equal distances neither is nearer, and each such node counts half. A table
that has collapsed to one point has the mean rank of chance, not 1.
"""

# Shape letters: N nodes, R relations, U nodes in a chunk, M most neighbours of one of them.

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["reconstruction"]

CELLS = 4_000_000  # of the distance matrix in memory at a time


@torch.no_grad()
def reconstruction(
    distances: Callable[[Tensor], Tensor], relations: Tensor, known: Tensor, num_nodes: int
) -> dict[str, float]:
    """Rank the true neighbours of every node among its non-neighbours.

    Args:
        distances: Maps nodes (U,) to their distances from all nodes (U, N).
        relations: What to find, (R, 2), each once.
        known: All relations; their v is no non-neighbour of their u. (at least R, 2).
        num_nodes: N.

    Returns:
        `mean_rank`, at least 1, and `map`, in (0, 1].

    Raises:
        ValueError: a distance that is NaN.
    """
    nodes, neighbours = _by_node(relations)
    everyone, theirs = _by_node(known)
    all_neighbours = dict(zip(everyone.tolist(), theirs, strict=True))
    ranks, precisions = 0.0, 0.0
    chunk = max(1, CELLS // num_nodes)
    for start in range(0, len(nodes), chunk):
        part = nodes[start : start + chunk]
        table = distances(part).double().cpu()
        if table.isnan().any():
            raise ValueError("distances hold NaN; lower the learning rate")
        rows = torch.arange(len(part))
        near = torch.nn.utils.rnn.pad_sequence(
            neighbours[start : start + chunk], batch_first=True, padding_value=-1
        )
        is_there = near >= 0
        # Past the end lies infinity: it sorts last and counts nowhere.
        length = table.gather(1, near.clamp(min=0)).masked_fill(~is_there, torch.inf)
        length = length.sort(dim=1).values
        table[rows, part] = torch.inf
        for row, node in enumerate(part.tolist()):
            table[row, all_neighbours[node]] = torch.inf
        table = table.sort(dim=1).values
        below = torch.searchsorted(table, length)
        up_to = torch.searchsorted(table, length, right=True)
        before = (below + up_to).double() / 2
        ranks += float((1 + before)[is_there].sum())
        place = torch.arange(1, near.shape[1] + 1, dtype=torch.float64)
        share = (place / (place + before)).masked_fill(~is_there, 0.0)
        precisions += float((share.sum(1) / is_there.sum(1)).sum())
    return {"mean_rank": ranks / len(relations), "map": precisions / len(nodes)}


def _by_node(relations: Tensor) -> tuple[Tensor, list[Tensor]]:
    """List the nodes that have neighbours, and the neighbours of each."""
    ordered = relations[relations[:, 0].argsort(stable=True)]
    nodes, counts = torch.unique_consecutive(ordered[:, 0], return_counts=True)
    return nodes, list(ordered[:, 1].split(counts.tolist()))
