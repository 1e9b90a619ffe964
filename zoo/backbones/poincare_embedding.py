"""Embedding the nodes of a graph: a table of points, and nothing else.

A model of kind `nodes` reads a node u and its candidates v_1 … v_K, the true neighbour first, and
returns the logits −d(u, v_j). Cross-entropy with target 0 is then the loss of the paper.

Source: Nickel and Kiela 2017, "Poincaré embeddings for learning hierarchical representations",
arXiv:1705.08039; its Euclidean baseline has the squared distance, as here.
"""

# Shape letters: B samples, N nodes, D dimensions, K candidates.

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...layers.decay import exclude_from_decay
from ...layers.hyperbolic import PoincareEmbedding, distance_logits, poincare
from ...layers.sizes import check_sizes
from ...layers.units import Units, UnitTrace
from ..models import register_model
from ..network import HeadBuilder, Network

__all__ = ["NodeEmbedding"]


class NodeEmbedding(Network):
    """A table of points, one for each node, in the Poincaré ball or in flat space.

    There is no classifier: `num_classes` is 0 and the logits are as many as the candidates. The
    ball's points need a Riemannian optimiser; the trainer refuses another.

    Args:
        num_nodes: N, at least 2.
        dim: D, at least 1.
        geometry: `poincare` with the geodesic distance, or `euclidean` with the squared one.
        curvature: c of the ball, positive; flat space has none and takes only 1.
        init_range: Coordinates start uniformly in ±init_range, in units of 1/√c.
        precision: Of the table and of the distances.

    Shape:
        int64 (B, 1 + K) in [0, N) -> (B, K).

    Raises:
        ValueError: a number out of range, or an input with fewer than one candidate.
    """

    def __init__(
        self,
        *,
        num_nodes: int = 1180,
        dim: int = 5,
        geometry: Literal["poincare", "euclidean"] = "poincare",
        curvature: float = 1.0,
        init_range: float = 1e-3,
        precision: Literal["float32", "float64"] = "float32",
    ) -> None:
        """Draw the points."""
        check_sizes(2, num_nodes=num_nodes)
        check_sizes(1, dim=dim)
        super().__init__(num_classes=0, num_nodes=num_nodes)
        self.num_features, self.num_classes = dim, 0
        dtype = getattr(torch, precision)
        self.embedding: PoincareEmbedding | nn.Embedding
        if geometry == "poincare":
            self.embedding = PoincareEmbedding(
                num_nodes, dim, curvature=curvature, init_range=init_range, dtype=dtype
            )
        else:
            if curvature != 1.0:
                raise ValueError(f"geometry=euclidean has no curvature, got {curvature}; leave it")
            if not init_range > 0:
                raise ValueError(f"init_range must be above 0, got {init_range}")
            self.embedding = nn.Embedding(num_nodes, dim, dtype=dtype)
            nn.init.uniform_(self.embedding.weight, -init_range, init_range)
            exclude_from_decay(self.embedding, "weight")
        self.head = nn.Identity()

    @property
    def points(self) -> Tensor:
        """The table (N, D)."""
        table = self.embedding
        return table.points if isinstance(table, PoincareEmbedding) else table.weight

    def follow_units(self, trace: UnitTrace, x: Units) -> None:
        """Coordinates of the points, of which only distances are seen."""
        trace.through(self.embedding, x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Look up the points (B, 1 + K, D)."""
        if x.dim() != 2 or x.shape[1] < 2:
            raise ValueError(f"a sample is a node and its candidates, got shape {tuple(x.shape)}")
        return self.embedding(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return −d(u, v_j), or the points themselves."""
        if pre_logits:
            return x
        if isinstance(self.embedding, PoincareEmbedding):
            return distance_logits(x, self.embedding.curvature)
        return -(x[..., :1, :] - x[..., 1:, :]).square().sum(-1)

    def distances(self, nodes: Tensor) -> Tensor:
        """Return the distances of nodes (B,) from all nodes, (B, N)."""
        table = self.points.detach()
        points = table[nodes.to(table.device)][:, None]
        if isinstance(self.embedding, PoincareEmbedding):
            return poincare.distance(points, table, self.embedding.curvature)
        return (points - table).norm(dim=-1)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Refuse: there is no classifier.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{type(self).__name__} ranks candidates and has no classifier to replace")

    def use_head(self, make_head: HeadBuilder) -> None:
        """Refuse: there is no classifier.

        Raises:
            ValueError: always.
        """
        self.reset_classifier(0)


@register_model(
    source="arXiv:1705.08039", kind="nodes", geometry="Poincaré ball", extends=NodeEmbedding
)
def poincare_embedding(**options: Any) -> NodeEmbedding:
    """Points of the Poincaré ball for the nodes of a hierarchy, such as the 1,180 mammals."""
    return NodeEmbedding(**options)


@register_model(
    source="arXiv:1705.08039", kind="nodes", geometry="Poincaré ball", extends=NodeEmbedding
)
def poincare_embedding_nano(num_nodes: int = 13, dim: int = 2, **options: Any) -> NodeEmbedding:
    """Points of the disk for a tree of 13 nodes, for tests."""
    return NodeEmbedding(num_nodes=num_nodes, dim=dim, **options)
