"""Zachary's karate club: 34 members, who is a friend of whom, and which half each went with."""

import torch
from torch import Tensor

from ..data_set import Graph, Splits, data_sets
from ..graphs import node_splits
from ..relations import relation_splits

__all__ = ["karate", "karate_links"]

SOURCE = "Zachary 1977, Journal of Anthropological Research 33, as in networkx"
CLASSES = ("Mr. Hi", "Officer")


def _club() -> tuple[Tensor, Tensor]:
    """Return the friendships (78, 2) and the half of each member (34,)."""
    from networkx import karate_club_graph

    club = karate_club_graph()
    edges = torch.tensor(sorted((min(e), max(e)) for e in club.edges), dtype=torch.int64)
    halves = [CLASSES.index(club.nodes[node]["club"]) for node in range(len(club))]
    return edges, torch.tensor(halves)


@data_sets.register(kind="graph", source=SOURCE, shape=(), num_classes=2)
def karate(*, split: int = 0, passes: int = 10) -> Splits:
    """The karate club, 34 nodes and 78 edges: which half of it a member went with.

    Args:
        split: Which of five stratified folds to test on, in [0, 4].
        passes: How often an epoch goes over the training nodes, at least 1.

    Raises:
        ValueError: a number out of range.
    """
    edges, halves = _club()
    about = {"source": SOURCE}
    return node_splits(halves, CLASSES, Graph(edges, 34), split=split, passes=passes, about=about)


@data_sets.register(kind="nodes", source=SOURCE)
def karate_links(*, negatives: int = 10, held_out: float = 0.2, split: int = 0) -> Splits:
    """The karate club: which members are friends.

    Args:
        negatives: Nodes beside the true one in a sample, at least 1.
        held_out: Share of the edges to predict, half for validation and half for the test; 0
            evaluates reconstruction, as in `wordnet`.
        split: Another number holds out other edges.

    Raises:
        ValueError: a number out of range.
    """
    edges, _ = _club()
    return relation_splits(
        edges, 34, negatives, held_out, {"source": SOURCE, "split": split},
        undirected=True, draw=split,
    )  # fmt: skip
