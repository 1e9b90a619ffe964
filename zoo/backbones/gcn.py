"""Graph convolutional network over any residual, in any geometry: links to predict, or classes.

The graph is part of the model: its edges and the features of its nodes are buffers, which
`follow_graph` fills and `save_model` keeps. A sample is a node, or a node with candidates, by their
numbers; the features of all nodes are computed and those of the sample looked up.

Sources: Kipf and Welling 2017, arXiv:1609.02907; in the ball, and for links by distances, Chami
et al. 2019, arXiv:1910.12933 (HGCN); on the hyperboloid Chen et al. 2022, arXiv:2105.14686
(HyboNet).
Differs from them: residual and geometry are choices; branches stand behind a norm of their own and
join a stream by any residual, as in every backbone here; without features there is a learned table,
and no one-hot vectors; no attention over edges; activations come last in every space.
"""

# Shape letters: B samples, N nodes, E edges, F features, D width, K candidates.

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.decay import exclude_from_decay
from ...layers.graphs import (
    GraphConvolution,
    InnerProductHead,
    KeptNeighbours,
    LinkHead,
    Normalise,
    fastrp_table,
    neighbours_of,
)
from ...layers.hyperbolic import keep_one_ball
from ...layers.modes import evaluating
from ...layers.residual import Site
from ...layers.sizes import check_rates, check_sizes
from ...layers.units import Units, UnitTrace
from ..axes.geometry import (
    Aggregate,
    Geometry,
    GeometryName,
    HeadName,
    choose_geometry,
    give_head,
)
from ..axes.residuals import ResidualSpec, make_residual
from ..models import register_model
from ..network import HeadBuilder, Network
from ..trunk import Trunk, drop_path_rates

__all__ = ["GCN", "gcn_nano", "gcn_small"]

NORMS: dict[str, Callable[[Geometry, int], nn.Module]] = {
    "layer": lambda space, width: space.layer_norm(width),
    "rms": lambda space, width: space.rms_norm(width),
    "none": lambda space, width: nn.Identity(),
}
DECODERS: dict[str, Callable[[Geometry], nn.Module]] = {
    "distance": lambda space: LinkHead(squared=space.squared_distance),
    "inner_product": lambda space: InnerProductHead(),
}
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "none": nn.Identity}


class GCN(Network):
    """Graph convolutions over a table or over features of the nodes.

    A model that was told no graph has one without edges.

    Args:
        num_classes: Length of the logits of a node; 0 for features. None predicts links.
        num_nodes: N, at least 2.
        num_edges: E, at least 0.
        in_features: F; 0 learns a table of the nodes.
        width: Width of the stream, and the dimensions in which links are decided.
        depth: Convolutions.
        norm: Before each convolution, and before a classifier. `layer` and `rms` leave a node of
            few dimensions its direction alone; with a width of some 8 and less take `none`.
        activation: After each convolution.
        normalise: Of the neighbourhoods; see `layers/graphs/adjacency.py`.
        decoder: What the odds of a link are a function of: the distance, or in flat space the
            inner product.
        init: What the table of the nodes starts from: numbers drawn at random, or FastRP of the
            first graph that `follow_graph` is told.
        aggregate: How points of a curved space are averaged over neighbourhoods: by their
            `midpoint`, or by their tangents at the origin; None is `tangent` in the ball and
            `midpoint` on the hyperboloid. Vectors of flat space have one mean.
        residual: The residual mechanism: a name, a mapping or a builder.
        geometry: The space of the nodes: `euclidean`, `poincare` or `lorentz`.
        curvature: c > 0, minus the sectional curvature; None is 0.1 in a curved space.
        learned_curvature: Whether c is learned, one for all layers.
        head: Of classes `linear`, `mlr` (distances to hyperplanes) or `distance` (to points); None
            is `linear` in flat space and `mlr` in a curved one. Links have the odds of distances.
        drop_rate: Dropout inside the branches, in [0, 1).
        drop_path_rate: Share of the nodes that skip the last branch in training, in [0, 1).

    Shape:
        nodes (B,) -> (B, num_classes); nodes and their candidates (B, 1 + K) -> (B, K), or pairs of
        nodes (B, K, 2) -> (B, K).

    Raises:
        ValueError: a size, a rate or a choice out of range, a residual or a head of another space,
            a curvature that nothing has, or an input of the other task.
    """

    edges: Tensor
    features: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int | None = 2,
        num_nodes: int = 34,
        num_edges: int = 0,
        in_features: int = 0,
        width: int = 32,
        depth: int = 2,
        norm: Literal["layer", "rms", "none"] = "layer",
        activation: Literal["relu", "gelu", "none"] = "relu",
        normalise: Normalise = "symmetric",
        decoder: Literal["distance", "inner_product"] = "distance",
        init: Literal["normal", "fastrp"] = "normal",
        aggregate: Aggregate | None = None,
        residual: ResidualSpec = "add",
        geometry: GeometryName = "euclidean",
        curvature: float | None = None,
        learned_curvature: bool = False,
        head: HeadName | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build the stem, the trunk and the head."""
        check_sizes(2, num_nodes=num_nodes)
        check_sizes(0, num_edges=num_edges, in_features=in_features)
        check_sizes(1, width=width, depth=depth)
        check_rates(drop_rate=drop_rate)
        chosen = {
            "norm": (norm, NORMS),
            "activation": (activation, ACTIVATIONS),
            "decoder": (decoder, DECODERS),
            "init": (init, ("normal", "fastrp")),
        }
        for name, (choice, known) in chosen.items():
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {choice!r}")
        if num_classes is None and head is not None:
            raise ValueError(
                f"head={head!r} classifies nodes, and num_classes=None predicts links by their "
                f"distance; leave head out"
            )
        space = choose_geometry(
            geometry,
            curvature=curvature,
            learned_curvature=learned_curvature,
            head=head,
            residual=residual,
        )
        if decoder == "inner_product" and space.shared:
            raise ValueError(
                f"decoder=inner_product is of flat space, got geometry={geometry}; take "
                f"decoder=distance"
            )
        super().__init__(num_nodes=num_nodes)
        if init == "fastrp" and in_features:
            raise ValueError(f"init=fastrp fills a table; in_features={in_features} has none")
        self.num_nodes, self.num_features = num_nodes, width
        self.init, self.table_scale = init, space.weight_scale
        self.normalise: Normalise = normalise
        # Loops at node 0 stand for edges that are not known yet, and count as none.
        self.register_buffer("edges", torch.zeros(num_edges, 2, dtype=torch.int64))
        known = torch.zeros(num_nodes, in_features) if in_features else None
        self.register_buffer("features", known)
        if in_features:
            self.stem: nn.Module = space.node_linear(in_features, width)
        else:
            table = nn.Embedding(num_nodes, width)
            # Squared distances start near 2 on average, where a link is as likely as not.
            nn.init.normal_(table.weight, std=self.table_scale * width**-0.5)
            exclude_from_decay(table, "weight")
            self.stem = table
        sites = [Site("graph", i) for i in range(depth)]
        self.trunk = Trunk(
            make_residual(residual, width, sites, shared=space.shared),
            [
                GraphConvolution(
                    space.node_linear(width, width),
                    ACTIVATIONS[activation](),
                    mean=space.neighbour_mean(aggregate),
                    drop_rate=drop_rate,
                )
                for _ in range(depth)
            ],
            [NORMS[norm](space, width) for _ in range(depth)],
            drop_path_rates(drop_path_rate, depth),
            tokens=False,
        )
        self.trunk.apply_branch_gain()
        neighbours_of(self.edges, num_nodes, normalise)  # refuses a choice that there is not
        self.neighbours = KeptNeighbours()
        if num_classes is None:
            # A norm would put all nodes on one sphere, and the radius is what ranks a hierarchy.
            self.norm: nn.Module = nn.Identity()
            self.head, self.num_classes = DECODERS[decoder](space), 0
            self.default_cfg["num_classes"] = 0
            self.shared = space.shared
            if space.shared:
                keep_one_ball(self)
        else:
            self.norm = NORMS[norm](space, width)
            self.num_classes, self.head = num_classes, nn.Identity()
            give_head(self, space, head)

    @property
    def logits_are_odds(self) -> bool:
        """Whether the model predicts links: its logits are then log-odds."""
        return isinstance(self.head, LinkHead | InnerProductHead)

    @property
    def has_distances(self) -> bool:
        """Whether the model decides by distances, which rank all nodes."""
        return isinstance(self.head, LinkHead)

    def follow_graph(self, edges: Tensor, features: Tensor | None = None) -> None:
        """Take over a graph.

        Args:
            edges: Undirected, each once, (E, 2): those that training may know.
            features: Of the nodes, (N, F).

        Raises:
            ValueError: a graph of other sizes than the model was built for, a node that is none, or
                an edge that is there twice.
        """
        own = self.features
        for name, mine, theirs in (("edges", self.edges, edges), ("features", own, features)):
            sizes = [None if one is None else tuple(one.shape) for one in (mine, theirs)]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"the model was built for {name} of shape {sizes[0]}, got {sizes[1]}; build it "
                    f"with the num_nodes, num_edges and in_features of the graph"
                )
        if len(edges) and (int(edges.min()) < 0 or int(edges.max()) >= self.num_nodes):
            raise ValueError(
                f"edges must join nodes in [0, {self.num_nodes}), got {int(edges.min())} to "
                f"{int(edges.max())}"
            )
        ends = edges.sort(1).values[edges[:, 0] != edges[:, 1]]
        if len(ends) != len(ends.unique(dim=0)):
            raise ValueError(
                f"edges must be undirected, each once, got {len(ends)} of which "
                f"{len(ends.unique(dim=0))} differ"
            )
        table = self.stem if self.init == "fastrp" and len(edges) else None
        if isinstance(table, nn.Embedding) and not self.edges.any():  # no graph before this
            start = fastrp_table(edges, self.num_nodes, self.num_features)
            with torch.no_grad():
                table.weight.copy_(start * self.table_scale)
        self.edges.copy_(edges)
        if own is not None and features is not None:
            own.copy_(features)

    def encode(self) -> Tensor:
        """Return the features of all nodes (N, D)."""
        if self.features is None:
            h = self.stem(torch.arange(self.num_nodes, device=self.edges.device))
        else:
            h = self.stem(self.features)
        dtype = torch.promote_types(h.dtype, torch.float32)
        neighbours = self.neighbours(self.edges, self.num_nodes, self.normalise, dtype)
        return self.norm(self.trunk(h, [(neighbours,)] * len(self.trunk.branches)))

    def follow_units(self, trace: UnitTrace, x: Units) -> Units | None:
        """One stream from the table or the features of the nodes; links depend on distances."""
        x = trace.chain(x, self.stem, self.trunk, self.norm)
        found = trace.through(self.head, x)
        return None if self.logits_are_odds else found

    def forward_features(self, x: Tensor) -> Tensor:
        """Look up the features of nodes: (B, …) -> (B, …, D)."""
        links = self.logits_are_odds
        wanted = (
            "a node and its candidates (B, 1 + K) or pairs (B, K, 2)" if links else "nodes (B,)"
        )
        pairs = x.dim() == 3 and x.shape[2] == 2
        fits = pairs or (x.dim() == 2 and x.shape[1] >= 2) if links else x.dim() == 1
        if not fits:
            raise ValueError(f"the model reads {wanted}, got shape {tuple(x.shape)}")
        return F.embedding(x, self.encode())

    @torch.no_grad()
    def distances(self, nodes: Tensor) -> Tensor:
        """Return the distances of nodes (B,) from all nodes, (B, N), in eval mode.

        Raises:
            ValueError: a model that classifies nodes, or decides by inner products.
        """
        if not isinstance(self.head, LinkHead):
            raise ValueError(
                "distances are of a model of links; build it with num_classes=None and "
                "decoder='distance'"
            )
        with evaluating(self):
            points = self.encode()
        return self.head.squared(points[nodes.to(points.device)][:, None], points).sqrt()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier.

        Raises:
            ValueError: a model of links, which has none, or as for every model.
        """
        self._refuse_links()
        super().reset_classifier(num_classes, global_pool)

    def use_head(self, make_head: HeadBuilder) -> None:
        """Classify by another kind of head.

        Raises:
            ValueError: a model of links, which has no classifier.
        """
        self._refuse_links()
        super().use_head(make_head)

    def _refuse_links(self) -> None:
        if self.logits_are_odds:
            raise ValueError("a GCN of links has no classifier to replace; build it with classes")


@register_model(source="arXiv:1609.02907", kind="graph", extends=GCN)
def gcn_nano(width: int = 16, depth: int = 2, **options: Any) -> GCN:
    """The smallest graph convolutional network, for tests and the karate club."""
    return GCN(width=width, depth=depth, **options)


@register_model(source="arXiv:1609.02907", kind="graph", extends=GCN)
def gcn_tiny(width: int = 32, depth: int = 2, **options: Any) -> GCN:
    """A graph convolutional network of 2 layers, 32 wide."""
    return GCN(width=width, depth=depth, **options)


@register_model(source="arXiv:1609.02907", kind="graph", extends=GCN)
def gcn_small(width: int = 64, depth: int = 4, **options: Any) -> GCN:
    """A graph convolutional network of 4 layers, 64 wide."""
    return GCN(width=width, depth=depth, **options)


@register_model(source="arXiv:1910.12933", kind="graph", geometry="Poincaré ball", extends=GCN)
def hgcn_tiny(
    width: int = 32,
    depth: int = 2,
    normalise: Normalise = "row",
    geometry: GeometryName = "poincare",
    **options: Any,
) -> GCN:
    """The layers of HGCN in the Poincaré ball, one curvature for all, without its attention."""
    space = {"normalise": normalise, "geometry": geometry}
    return GCN(width=width, depth=depth, **space, **options)


@register_model(source="arXiv:2105.14686", kind="graph", geometry="Hyperboloid", extends=GCN)
def hybonet_tiny(
    width: int = 32,
    depth: int = 2,
    normalise: Normalise = "row",
    geometry: GeometryName = "lorentz",
    **options: Any,
) -> GCN:
    """The layers of HyboNet's graph network on the hyperboloid, without its gate."""
    space = {"normalise": normalise, "geometry": geometry}
    return GCN(width=width, depth=depth, **space, **options)
