"""What comparisons of graph networks share: their spaces, and scores that need no training."""

from collections.abc import Callable
from typing import Any

from archzoo.layers.graphs import fastrp, very_sparse_projection
from archzoo.train.data import Splits
from archzoo.train.engine.graph_metrics import GraphMetrics
from torch import Generator, Tensor, device, int64
from torch.nn import functional as F

__all__ = ["SPACES", "cosines_of_fastrp", "degree_products", "ranked"]

SPACES = {
    "flat, distance": ("model.decoder=distance",),
    "flat, inner product": ("model.decoder=inner_product",),
    "Poincaré": ("model.geometry=poincare", "model.curvature=1.0"),
    "Lorentz": ("model.geometry=lorentz", "model.curvature=1.0"),
}
"""The flat twin has both of its decoders: either alone would flatter the curved spaces."""


def auc(splits: Splits, score: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The AUC on the test fold of a score of pairs that nothing was trained for."""
    fold: Any = splits.test
    x, _ = fold.__getitems__([(0, i) for i in range(len(fold))])
    if x.dim() == 3:  # pairs, or a node and its candidates
        return ranked(score(x[..., 0], x[..., 1]))
    return ranked(score(x[:, :1], x[:, 1:]))


def ranked(scores: Tensor) -> float:
    """The AUC of scores (B, K) of which the first of each row is that of a true pair."""
    metrics = GraphMetrics("nodes", device("cpu"))
    metrics.update(scores, scores.new_zeros(len(scores), dtype=int64))
    return metrics.compute()["auc"]


def degree_products(splits: Splits) -> float:
    """The AUC of the product of two degrees."""
    assert splits.graph is not None
    degrees = splits.graph.edges.flatten().bincount(minlength=splits.graph.num_nodes).double()
    return auc(splits, lambda u, v: degrees[u] * degrees[v])


def cosines_of_fastrp(splits: Splits, dim: int, seed: int) -> float:
    """The AUC of cosines of FastRP's rows, four powers with equal weights."""
    assert splits.graph is not None
    generator = Generator().manual_seed(seed)
    drawn = very_sparse_projection(splits.graph.num_nodes, dim, generator=generator)
    rows = F.normalize(fastrp(splits.graph.edges, drawn), dim=1)
    return auc(splits, lambda u, v: (rows[u] * rows[v]).sum(-1))
