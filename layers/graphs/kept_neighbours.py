"""The neighbourhoods of a graph, tabulated once and again when the graph is another."""

import torch
from torch import Tensor

from ..fast_path import records_gradients
from ._fast.sparse_rows import prepared
from .adjacency import Neighbours, Normalise, neighbours_of

__all__ = ["KeptNeighbours"]


class KeptNeighbours:
    """What `neighbours_of` answered last, for as long as it is asked the same.

    Edges are compared by their values, so that it does not matter how they were changed: in place,
    by a state dict or by another process. What traces or compiles a model tabulates them anew. A
    copy starts without a table.
    """

    def __init__(self) -> None:
        """Start without a table."""
        self._asked: tuple[object, ...] = ()
        self._edges = torch.empty(0, 2, dtype=torch.int64)
        self._kept: Neighbours | None = None

    def __call__(
        self, edges: Tensor, num_nodes: int, normalise: Normalise, dtype: torch.dtype
    ) -> Neighbours:
        """Return Â of a graph; see `neighbours_of`."""
        if edges.is_meta or not records_gradients(edges):
            return neighbours_of(edges, num_nodes, normalise, dtype)
        asked = (num_nodes, normalise, dtype, edges.device)
        kept = self._kept
        if kept is None or asked != self._asked or not torch.equal(edges, self._edges):
            # Not of inference mode, whose tensors a later training could not keep.
            with torch.inference_mode(False), torch.no_grad():
                kept = prepared(neighbours_of(edges, num_nodes, normalise, dtype), num_nodes)
                self._asked, self._edges, self._kept = asked, edges.clone(), kept
        return kept

    def __reduce__(self) -> tuple[type["KeptNeighbours"], tuple[()]]:
        """Copy and save nothing of the table."""
        return KeptNeighbours, ()
