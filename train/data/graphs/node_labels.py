"""Nodes to classify: the graph is known whole, and the labels of some nodes are.

The split is transductive: a model sees all nodes with their features and edges, and the classes of
the training nodes alone.
"""

# Shape letters: B samples in a batch, N nodes.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data_set import Graph, Key, Splits
from ..download import fingerprint
from ..stratified_split import held_out, split_off

__all__ = ["NodeFold", "node_splits"]

FEWEST = 10  # nodes, so that each of five folds and the validation have some


class NodeFold:
    """Nodes with their classes.

    Args:
        nodes: Numbers of the nodes, int64, shape (S,).
        labels: Their classes, int64, shape (S,).
        passes: How often a round goes over the nodes. A step looks at the whole graph for a few of
            its nodes, and there are often too few of them for a batch.

    Raises:
        ValueError: passes < 1, or as many labels as nodes are needed.
    """

    def __init__(self, nodes: Tensor, labels: Tensor, passes: int = 1) -> None:
        """Keep both."""
        if passes < 1:
            raise ValueError(f"passes must be at least 1, got {passes}")
        if len(nodes) != len(labels):
            raise ValueError(f"labels must be as many as nodes, {len(nodes)}: {len(labels)}")
        self.nodes, self.labels, self.passes = nodes, labels, passes

    def __len__(self) -> int:
        """Count the nodes of all passes."""
        return self.passes * len(self.nodes)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Fetch a batch: nodes (B,) and their classes (B,), both int64."""
        indices = torch.tensor([index for _, index in keys], dtype=torch.int64) % len(self.nodes)
        return self.nodes[indices], self.labels[indices]


def node_splits(
    labels: Tensor,
    classes: Sequence[str],
    graph: Graph,
    *,
    split: int,
    passes: int,
    about: dict[str, Any],
) -> Splits:
    """Deal the nodes to five stratified test folds that together hold every node once.

    An eighth of the other nodes validates.

    Args:
        labels: Class of each node, int64, shape (N,).
        classes: Names of the classes.
        graph: All edges and features.
        split: Which fold to test on, in [0, 4].
        passes: How often an epoch goes over the training nodes.
        about: Facts to log.

    Raises:
        ValueError: fewer than ten nodes or two classes, or a number out of range.
    """
    if len(labels) < FEWEST or len(classes) < 2:
        raise ValueError(
            f"the graph has {len(labels)} nodes and {len(classes)} classes; at least {FEWEST} "
            f"nodes and 2 classes are needed"
        )
    rest, test = held_out(labels, split)
    train, validation = split_off(labels[rest], max(1, len(rest) // 8))
    numbers = {"train": rest[train], "validation": rest[validation], "test": test}
    folds: dict[str, Any] = {
        name: NodeFold(nodes, labels[nodes], passes if name == "train" else 1)
        for name, nodes in numbers.items()
    }
    known = [graph.edges] if graph.features is None else [graph.edges, graph.features]
    facts = {
        **about,
        "classes": list(classes),
        "nodes": len(labels),
        "edges": len(graph.edges),
        "task": "node classification",
        "split": split,
        "sizes": {name: len(nodes) for name, nodes in numbers.items()},
        "sha256": {
            "graph": fingerprint(*known),
            **{name: fingerprint(fold.nodes, fold.labels) for name, fold in folds.items()},
        },
    }
    return Splits("graph", (), len(classes), **folds, about=facts, graph=graph)
