"""Trees that need no file: balanced ones, and ones that grow at random."""

from ..counter_random import counter_uniform
from ..data_set import Splits, data_sets
from ..relations import relation_splits, transitive_closure

__all__ = ["balanced_parents", "random_parents", "random_tree", "tree"]

LARGEST = 1_000_000


def balanced_parents(branching: int, depth: int) -> list[list[int]]:
    """Return the parent of each node of a balanced tree, level by level from the root, node 0.

    Raises:
        ValueError: branching or depth below 1, or more than a million nodes.
    """
    if branching < 1 or depth < 1:
        raise ValueError(
            f"branching and depth must be at least 1, got branching={branching}, depth={depth}"
        )
    size, level = 1, 1
    for _ in range(depth):
        level *= branching
        size += level
        if size > LARGEST:
            raise ValueError(
                f"branching={branching} and depth={depth} make more than {LARGEST:,} nodes; "
                f"choose a smaller tree"
            )
    return [[(node - 1) // branching] if node else [] for node in range(size)]


def random_parents(num_nodes: int, seed: int) -> list[list[int]]:
    """Return the parents of a random recursive tree: each node hangs on any earlier one.

    Raises:
        ValueError: fewer than 2 nodes, or more than a million.
    """
    import torch

    if not 2 <= num_nodes <= LARGEST:
        raise ValueError(f"num_nodes must lie in [2, {LARGEST:,}], got {num_nodes}")
    nodes = torch.arange(1, num_nodes)
    uniform = counter_uniform(torch.full_like(nodes, seed), nodes, 1)[:, 0].double()
    return [[], *([parent] for parent in (uniform * nodes).long().tolist())]


@data_sets.register(kind="nodes", source="made here")
def tree(
    *, branching: int = 3, depth: int = 4, negatives: int = 10, held_out: float = 0.0
) -> Splits:
    """A balanced tree: every node and each of its ancestors.

    Args:
        branching: Children of an inner node, at least 1.
        depth: Levels below the root, at least 1.
        negatives: Nodes beside the true one in a sample, at least 1.
        held_out: Share of the relations to predict; 0 evaluates reconstruction, as in `wordnet`.

    Raises:
        ValueError: a number out of range.
    """
    parents = balanced_parents(branching, depth)
    about = {"source": f"balanced tree, branching {branching}, depth {depth}"}
    return relation_splits(transitive_closure(parents), len(parents), negatives, held_out, about)


@data_sets.register(kind="nodes", source="made here")
def random_tree(
    *, num_nodes: int = 200, seed: int = 0, negatives: int = 10, held_out: float = 0.0
) -> Splits:
    """A random recursive tree: every node and each of its ancestors.

    Args:
        num_nodes: At least 2.
        seed: Of the tree; the same for every run that does not set it.
        negatives: Nodes beside the true one in a sample, at least 1.
        held_out: Share of the relations to predict; 0 evaluates reconstruction, as in `wordnet`.

    Raises:
        ValueError: a number out of range.
    """
    parents = random_parents(num_nodes, seed)
    about = {"source": f"random recursive tree of {num_nodes} nodes, seed {seed}"}
    return relation_splits(transitive_closure(parents), len(parents), negatives, held_out, about)
