"""A disease that spreads down a tree: whom it reaches, or who is whose parent.

A tree grows from node 0; each inner node has a number of children drawn evenly from a range, and
all leaves are `depth` levels below the root. A node has features x ~ N(0, I) of F numbers. The root
and its children are ill, a child of a healthy node never is, and a child of an ill node is with

    P = σ(logit(rate) + signal · Σ_j x_j / √F).

Source: the data of Chami et al. 2019, "Hyperbolic graph convolutional neural networks",
arXiv:1910.12933, of which only files are public. The law above was read off those: 20 % of their
nodes are ill, 62 % of the children of an ill one below the root's.
Differs from them: no feature holds the place of a node in a drawing of the tree. Theirs does in the
set for link prediction, where that one number predicts nearly every edge.
"""

# Shape letters: N nodes, F features.

import math
from typing import Any

import torch
from torch import Tensor

from ..counter_random import counter_uniform
from ..data_set import Graph, Splits, data_sets
from ..graphs import node_splits
from ..relations import relation_splits

__all__ = ["disease", "disease_links", "ill_nodes", "spreading_tree"]

SOURCE = "made here, after arXiv:1910.12933"
LARGEST = 100_000
CHILDREN, FEATURES, ILLNESS = range(3)  # what a number is drawn for


def spreading_tree(branching: tuple[int, ...], depth: int, seed: int) -> Tensor:
    """Return the parent of each node but the root, level by level (N − 1,).

    Raises:
        ValueError: branching that is no range from 1 on, depth < 1, a seed below 0, or a tree of
            more than a hundred thousand nodes.
    """
    if len(branching) != 2 or not 1 <= branching[0] <= branching[1]:
        raise ValueError(f"branching must be the least and most children, got {list(branching)}")
    if depth < 1 or seed < 0:
        raise ValueError(f"depth must be at least 1 and seed 0, got depth={depth}, seed={seed}")
    low, high = branching
    parents, level, size = [], torch.zeros(1, dtype=torch.int64), 1
    for _ in range(depth):
        children = low + (_uniform(seed, level, 1, CHILDREN)[:, 0] * (high - low + 1)).long()
        parents.append(level.repeat_interleave(children))
        level = size + torch.arange(len(parents[-1]))
        size += len(level)
        if size > LARGEST:
            raise ValueError(
                f"branching={list(branching)} and depth={depth} make more than {LARGEST:,} nodes; "
                f"choose a smaller tree"
            )
    return torch.cat(parents)


def ill_nodes(parents: Tensor, features: Tensor, rate: float, signal: float, seed: int) -> Tensor:
    """Let the disease spread from the root, node 0.

    Args:
        parents: Of all nodes but the root, each before its children (N − 1,).
        features: (N, F).
        rate: Probability that a child of an ill node is ill, at average features, in (0, 1).
        signal: What the features add to its logit.
        seed: Of the chance.

    Returns:
        Whether each node is ill, bool (N,).
    """
    logit = math.log(rate / (1 - rate)) + signal * features.double().sum(1) / (
        features.shape[1] ** 0.5
    )
    chance = _uniform(seed, torch.arange(len(features)), 1, ILLNESS)[:, 0]
    caught = (chance < logit.sigmoid()).tolist()
    ill = [True]
    for node, parent in enumerate(parents.tolist(), 1):
        ill.append(parent == 0 or (ill[parent] and caught[node]))
    return torch.tensor(ill)


def _uniform(seed: int, nodes: Tensor, draws: int, purpose: int) -> Tensor:
    """Draw float64 in [0, 1), shape (nodes, draws); of each purpose others."""
    return counter_uniform(torch.full_like(nodes, 3 * seed + purpose), nodes, draws).double()


def _normal(seed: int, num_nodes: int, draws: int) -> Tensor:
    """Draw standard normals (N, draws) in float32."""
    uniform = _uniform(seed, torch.arange(num_nodes), draws, FEATURES) + 2.0**-25  # never 0
    return torch.special.ndtri(uniform).float()


def _outbreak(
    branching: tuple[int, ...], depth: int, rate: float, features: int, signal: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Return the edges, the features, who is ill, and what was drawn."""
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie in (0, 1), got {rate}")
    if features < 1:
        raise ValueError(f"features must be at least 1, got {features}")
    parents = spreading_tree(branching, depth, seed)
    x = _normal(seed, len(parents) + 1, features)
    ill = ill_nodes(parents, x, rate, signal, seed)
    edges = torch.stack([parents, torch.arange(1, len(x))], 1)
    return edges, x, ill, {"source": SOURCE, "ill": int(ill.sum()), "seed": seed}


@data_sets.register(kind="graph", source=SOURCE, shape=(), num_classes=2)
def disease(
    *,
    branching: tuple[int, ...] = (2, 6),
    depth: int = 5,
    rate: float = 0.68,
    features: int = 10,
    signal: float = 1.5,
    seed: int = 0,
    split: int = 0,
    passes: int = 1,
) -> Splits:
    """A disease that spreads down a tree of about a thousand nodes: which of them are ill.

    Args:
        branching: Fewest and most children of an inner node.
        depth: Levels below the root, at least 1.
        rate: Probability that a child of an ill node is ill, at average features, in (0, 1).
        features: Numbers that are known of each node, at least 1.
        signal: What these add to the logit of that probability.
        seed: Of the tree, the features and the chance.
        split: Which of five stratified folds to test on, in [0, 4].
        passes: How often an epoch goes over the training nodes, at least 1.

    Raises:
        ValueError: a number out of range.
    """
    edges, x, ill, about = _outbreak(branching, depth, rate, features, signal, seed)
    classes, known = ("healthy", "ill"), Graph(edges, len(x), x)
    return node_splits(ill.long(), classes, known, split=split, passes=passes, about=about)


@data_sets.register(kind="nodes", source=SOURCE)
def disease_links(
    *,
    branching: tuple[int, ...] = (2, 6),
    depth: int = 5,
    features: int = 10,
    seed: int = 0,
    negatives: int = 10,
    held_out: float = 0.1,
    split: int = 0,
) -> Splits:
    """The same tree with the same features: which node is the parent of which.

    Features say nothing of an edge and a tree has no second way round it, so there is little to
    learn here: a figure near chance is right.

    Args:
        branching: Fewest and most children of an inner node.
        depth: Levels below the root, at least 1.
        features: Numbers that are known of each node, at least 1.
        seed: Of the tree and the features.
        negatives: Nodes beside the true one in a sample, at least 1.
        held_out: Share of the edges to predict, none of them a leaf's, so that some 0.2 can be had;
            half for validation and half for the test. 0 evaluates reconstruction, as in `wordnet`.
        split: Another number holds out other edges.

    Raises:
        ValueError: a number out of range.
    """
    edges, x, *_ = _outbreak(branching, depth, 0.5, features, 0.0, seed)
    about = {"source": SOURCE, "seed": seed, "split": split}
    return relation_splits(
        edges, len(x), negatives, held_out, about, undirected=True, features=x, draw=split
    )
