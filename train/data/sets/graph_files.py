"""A graph of the user's own: links to predict, or nodes to classify."""

from pathlib import Path

import torch

from ..data_set import Graph, Splits, data_sets
from ..graphs import EvenPairFold, node_splits, read_graph
from ..graphs.edge_list import GraphText
from ..relations import RelationFold, relation_splits

__all__ = ["graph", "graph_links"]

SOURCE = "a file of yours"


def _read(
    name: str, path: str, num_nodes: int | None, simplify: bool
) -> tuple[GraphText, dict[str, object]]:
    """Read the files and the facts to log.

    Raises:
        ValueError: no path, or as `read_graph`.
    """
    if not path:
        raise ValueError("data.path must name an edge list or the folder of one; give data.path=…")
    if not Path(path).exists():
        raise ValueError(f"{name} was not found in {Path(path).absolute()}; give data.path=…")
    read = read_graph(path, num_nodes=num_nodes, simplify=simplify)
    return read, {"source": path, "edges": len(read.edges), "lines left out": read.left_out}


@data_sets.register(kind="graph", source=SOURCE)
def graph(
    *,
    path: str = "",
    num_nodes: int | None = None,
    simplify: bool = False,
    split: int = 0,
    passes: int = 1,
) -> Splits:
    """An edge list with labels beside it: which class a node is of.

    The files are those of `train/data/graphs/edge_list.py`: NAME.tsv.gz and NAME.labels.txt.

    Args:
        path: The edge list, or the folder of edges.tsv and labels.txt.
        num_nodes: Nodes, where neither a comment nor another file tells how many there are.
        simplify: Whether loops and repeated edges are left out, and not refused.
        split: Which of five stratified folds to test on, in [0, 4].
        passes: How often an epoch goes over the training nodes, at least 1.

    Raises:
        ValueError: a file is missing or damaged, or a number is out of range.
    """
    read, about = _read("graph", path, num_nodes, simplify)
    if read.labels is None:
        raise ValueError(
            f"data.path={path} has no labels beside it; give a file of that name that ends in "
            f".labels.txt, a label a line, or predict links: data=graph_links"
        )
    classes = sorted(set(read.labels))
    labels = torch.tensor([classes.index(label) for label in read.labels])
    known = Graph(read.edges, read.num_nodes, read.features)
    return node_splits(labels, classes, known, split=split, passes=passes, about=about)


@data_sets.register(kind="nodes", source=SOURCE)
def graph_links(
    *,
    path: str = "",
    num_nodes: int | None = None,
    simplify: bool = False,
    negatives: int = 10,
    held_out: float = 0.1,
    split: int = 0,
    even_pairs: bool = False,
) -> Splits:
    """An edge list: which nodes are joined.

    Args:
        path: The edge list, or the folder of edges.tsv.
        num_nodes: Nodes, where neither a comment nor another file tells how many there are.
        simplify: Whether loops and repeated edges are left out, and not refused.
        negatives: Nodes, or pairs, beside the true one in a sample, at least 1.
        held_out: Share of the edges to predict, half for validation and half for the test; every
            node keeps an edge. 0 evaluates reconstruction, as in `wordnet`.
        split: Another number holds out other edges.
        even_pairs: Whether negatives are pairs drawn evenly from all, and not other ends of the
            first node, in training and in evaluation.

    Raises:
        ValueError: a file is missing or damaged, or a number is out of range.
    """
    read, about = _read("graph_links", path, num_nodes, simplify)
    return relation_splits(
        read.edges,
        read.num_nodes,
        negatives,
        held_out,
        {**about, "split": split},
        undirected=True,
        features=read.features,
        draw=split,
        fold=EvenPairFold if even_pairs else RelationFold,
    )
