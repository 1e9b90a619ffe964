"""Relations of a hierarchy as samples: a node, one true neighbour and others drawn at random.

A sample is (u, v, v_1, …): the node u, a true neighbour v of it, and negatives v_i, so that the
target, the place of v among the candidates, is always 0. An undirected edge is two relations, so
that negatives are drawn for both of its ends. The paper evaluates reconstruction: the
relations that were trained on are to be found again, so by default all three folds hold all
relations and differ in their negatives only. With `held_out` the folds are disjoint instead, and a
relation of the validation or test fold is a link to predict.

Source: Nickel and Kiela 2017, arXiv:1705.08039, §3 and §4.1.
Differs from it: negatives are drawn with replacement.
"""

# Shape letters: B samples in a batch, N nodes, R relations, K negatives.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .counter_random import counter_hash, counter_uniform
from .data_set import Graph, Key, Splits
from .download import fingerprint

__all__ = ["RelationFold", "hold_out", "relation_splits", "transitive_closure"]


class RelationFold:
    """Relations (u, v) with negatives that are a function of the sample's key.

    Negatives are uniform among the nodes that are neither u nor a known neighbour of u. Where all
    nodes are neighbours of u, they are uniform among all but u.

    Args:
        relations: int64, shape (R, 2).
        known: The relations whose v is no negative of its u, shape (at least R, 2).
        num_nodes: N.
        negatives: K, at least 1.
        draw: None draws anew in every round; a number fixes one draw, for evaluation.

    Raises:
        ValueError: no relation, a node outside [0, N), K < 1, or fewer than two nodes.
    """

    def __init__(
        self,
        relations: Tensor,
        known: Tensor,
        num_nodes: int,
        negatives: int,
        *,
        draw: int | None = None,
    ) -> None:
        """List the neighbours of every node once."""
        if negatives < 1:
            raise ValueError(f"negatives must be at least 1, got {negatives}")
        if num_nodes < 2 or not len(relations):
            raise ValueError(
                f"a fold needs two nodes and a relation, got {num_nodes} nodes and "
                f"{len(relations)} relations"
            )
        both = torch.cat([relations, known])
        if both.min() < 0 or both.max() >= num_nodes:
            raise ValueError(
                f"nodes must lie in [0, {num_nodes}), got {int(both.min())} to {int(both.max())}"
            )
        self.relations, self.known = relations, known
        self.num_nodes, self.negatives, self.draw = num_nodes, negatives, draw
        self._skips, self._starts, self._allowed = _skips(known, num_nodes)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (2 + self.negatives,)

    def __len__(self) -> int:
        """Count the relations."""
        return len(self.relations)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Fetch a batch: nodes (B, 2 + K) and targets (B,) of 0, both int64."""
        pairs = torch.tensor(keys, dtype=torch.int64).reshape(-1, 2)
        rounds, indices = pairs[:, 0], pairs[:, 1]
        if self.draw is not None:
            rounds = torch.full_like(rounds, self.draw)
        relations = self.relations[indices]
        u = relations[:, 0]
        # float64: a product in float32 might round up to the count of allowed nodes.
        uniform = counter_uniform(rounds, indices, self.negatives).double()
        ranks = (uniform * self._allowed[u][:, None]).long()
        # The r-th allowed node lies as many places up as there are forbidden ones before it.
        places = u[:, None] * (self.num_nodes + 1) + ranks
        below = torch.searchsorted(self._skips, places, right=True) - self._starts[u][:, None]
        drawn = ranks + below
        return torch.cat([relations, drawn], 1), torch.zeros(len(keys), dtype=torch.int64)


def _skips(known: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tabulate e_j − j of the sorted nodes e_j that u is never paired with, and how many are left.

    One ascending list holds them for all u, each u · (N + 1) higher: a node with many neighbours
    costs no row of that length for the others.

    Returns:
        The list, where the part of each node begins (N,), and how many nodes are allowed (N,).
    """
    itself = torch.arange(num_nodes)[:, None].expand(-1, 2)
    pairs = torch.unique(torch.cat([known, itself]), dim=0)
    counts = pairs[:, 0].bincount(minlength=num_nodes)
    full = counts == num_nodes
    keep = ~full[pairs[:, 0]] | (pairs[:, 0] == pairs[:, 1])
    pairs = pairs[keep]
    counts = pairs[:, 0].bincount(minlength=num_nodes)
    starts = counts.cumsum(0) - counts
    column = torch.arange(len(pairs)) - starts[pairs[:, 0]]
    skips = pairs[:, 0] * (num_nodes + 1) + pairs[:, 1] - column
    return skips, starts, num_nodes - counts


def transitive_closure(parents: Sequence[Sequence[int]]) -> Tensor:
    """List every node with each of its ancestors once.

    Args:
        parents: The parents of each node; no node may be its own ancestor.

    Returns:
        int64, shape (R, 2), sorted.

    Raises:
        ValueError: a cycle.
    """
    ancestors: list[set[int] | None] = [None] * len(parents)
    for start in range(len(parents)):
        path, open_nodes = [start], {start}
        while path:
            node = path[-1]
            ahead = next((p for p in parents[node] if ancestors[p] is None), None)
            if ahead in open_nodes:
                raise ValueError(f"node {ahead} is its own ancestor; a hierarchy has no cycle")
            if ahead is not None:
                path.append(ahead)
                open_nodes.add(ahead)
                continue
            ancestors[node] = {*parents[node]}.union(*(ancestors[p] or () for p in parents[node]))
            open_nodes.discard(path.pop())
    pairs = [(node, a) for node, above in enumerate(ancestors) for a in sorted(above or ())]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def hold_out(
    relations: Tensor, num_nodes: int, share: float, draw: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Deal relations to three folds so that every node keeps a relation to learn from.

    Relations come up in an order that is a hash of their nodes; one is held out if both of its
    nodes have another one left, until the share is reached, first for validation, then for the
    test.

    Args:
        relations: (R, 2).
        num_nodes: N.
        share: Of all relations, for validation and for the test together, in (0, 1).
        draw: Another number deals the relations otherwise, at least 0.

    Raises:
        ValueError: a share outside (0, 1), a draw below 0, or a share that leaves some node
            without a relation.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"held_out must lie in [0, 1), got {share}")
    if draw < 0:
        raise ValueError(f"split must be at least 0, got {draw}")
    wanted = [int(share * len(relations)) // 2, int(share * len(relations)) // 2]
    left = relations.flatten().bincount(minlength=num_nodes).tolist()
    taken: list[list[int]] = [[], []]
    order = counter_hash(relations[:, 0] + draw * num_nodes, relations[:, 1]).argsort()
    for index in order.tolist():
        part = 0 if len(taken[0]) < wanted[0] else 1
        if len(taken[part]) == wanted[part]:
            break
        u, v = relations[index].tolist()
        if left[u] > 1 and left[v] > 1:
            left[u], left[v] = left[u] - 1, left[v] - 1
            taken[part].append(index)
    if not all(taken) or [len(part) for part in taken] != wanted:
        most = sum(map(len, taken)) / len(relations)
        raise ValueError(
            f"held_out={share} cannot be had: each node must keep a relation to learn from and "
            f"each fold must hold one; at most {most:.3g} of {len(relations)} can be held out"
        )
    kept = torch.ones(len(relations), dtype=torch.bool)
    kept[taken[0] + taken[1]] = False
    return relations[kept], relations[sorted(taken[0])], relations[sorted(taken[1])]


def relation_splits(
    relations: Tensor,
    num_nodes: int,
    negatives: int,
    held_out: float,
    about: dict[str, Any],
    *,
    undirected: bool = False,
    features: Tensor | None = None,
    draw: int = 0,
    fold: type[RelationFold] = RelationFold,
) -> Splits:
    """Make the three folds, and the graph of the training relations.

    Training never sees which relations were held out: they may be drawn as negatives there, as
    often as any other pair. In the other folds no true relation is a negative.

    Args:
        relations: All of them, (R, 2); of undirected edges one direction.
        num_nodes: N.
        negatives: K.
        held_out: 0 evaluates reconstruction on all relations; otherwise as in `hold_out`.
        about: Facts to log.
        undirected: Whether every relation holds in both directions. Both are then in one fold.
        features: Of the nodes, (N, F).
        draw: Which relations are held out, as in `hold_out`.
        fold: Draws the negatives.

    Raises:
        ValueError: a number out of range.
    """
    parts = (relations,) * 3
    if held_out != 0:
        parts = hold_out(relations, num_nodes, held_out, draw)
    graph = Graph.of(parts[0], num_nodes, features)
    if undirected:
        relations, *parts = (torch.cat([part, part.flip(1)]) for part in (relations, *parts))
    names = ("train", "validation", "test")
    folds: dict[str, Any] = {
        name: fold(
            part,
            part if name == "train" else relations,
            num_nodes,
            negatives,
            draw=None if name == "train" else names.index(name),
        )
        for name, part in zip(names, parts, strict=True)
    }
    facts = {
        **about,
        "nodes": num_nodes,
        "task": "link prediction" if held_out else "reconstruction",
        "sizes": {name: len(made) for name, made in folds.items()},
        "sha256": {name: fingerprint(made.relations) for name, made in folds.items()},
    }
    shape = folds["train"].sample_shape
    return Splits("nodes", shape, num_nodes, **folds, about=facts, graph=graph)
