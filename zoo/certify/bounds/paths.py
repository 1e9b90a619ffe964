"""Bounds along the paths of a graph: products of norms, sums where paths meet.

From a station on, whose difference is taken as 1 long,

    affine            L(v) ≤ Σ_i ‖N_i‖ L(u_i), and the root of the sum of squares over parts that
                      are written to different places
    function          L(s) ≤ max(|lo|, |hi|) L(u)
    joint map         L(s) ≤ constant · L(u)

with every operation rounded up. The larger and the smaller of the same pairs are one sort.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import product_up, root_up, sum_up
from ..graph import Affine, Elementwise, Graph, Joint, Node
from ..operators import Blocks, Gather, Operator

__all__ = ["along_paths", "between", "dominators", "slope"]


def dominators(graph: Graph, target: int) -> list[int]:
    """Return the nodes that every path from the input to a node passes, both ends included."""
    inside = between(graph, 0, target)
    farthest, found = 0, []
    last: dict[int, int] = {}
    for number in inside:
        for source in graph.nodes[number].sources:
            last[source] = number
    for number in inside:
        if number >= farthest:
            found.append(number)
        farthest = max(farthest, last.get(number, number))
    return found


def between(graph: Graph, start: int, target: int) -> list[int]:
    """Return the nodes of all paths from one node to another, in order."""
    reached = {start}
    for node in graph.nodes[start + 1 : target + 1]:
        if any(source in reached for source in node.sources):
            reached.add(node.number)
    needed = {target}
    for number in range(target, start, -1):
        if number in needed:
            needed |= set(graph.nodes[number].sources)
    return sorted(reached & needed)


def along_paths(graph: Graph, start: int, target: int) -> dict[int, float]:
    """Bound every node on the paths from a dominating node, whose own bound is 1."""
    found = {start: 1.0}
    for number in between(graph, start, target):
        if number != start:
            found[number] = _bound(graph, graph.nodes[number], found)
    return found


def slope(node: Elementwise) -> float:
    """The largest slope of a function, up or down."""
    if not node.size:
        return 0.0
    return max(float(node.low.abs().max()), float(node.high.abs().max()))


def _bound(graph: Graph, node: Node, found: dict[int, float]) -> float:
    if isinstance(node, Elementwise):
        return product_up(slope(node), found[node.source])
    if isinstance(node, Joint):
        return product_up(node.lipschitz, found[node.source])
    assert isinstance(node, Affine)
    terms = [(source, op) for source, op in node.terms if source in found]
    parts = [(product_up(op.norm, found[source]), _places(op)) for source, op in terms]
    parts = _sorted_pairs(graph, terms, parts, found)
    if len(parts) == 1:
        return parts[0][0]
    total = 0.0
    for group in _apart([places for _, places in parts]):
        side = sum_up(*(parts[i][0] for i in group))
        total = sum_up(total, product_up(side, side))
    whole = sum_up(*(bound for bound, _ in parts))
    return min(whole, root_up(total))


Part = tuple[float, Tensor | None]


def _sorted_pairs(
    graph: Graph,
    terms: Sequence[tuple[int, Operator]],
    parts: list[Part],
    found: dict[int, float],
) -> list[Part]:
    """Count the smaller and the larger of the same pairs once: together they sort."""
    left = list(range(len(terms)))
    pairs: list[Part] = []
    for i in range(len(terms)):
        for j in range(i + 1, len(terms)):
            if i in left and j in left and _sort(graph, terms[i][0], terms[j][0]):
                (_, a), (_, b) = terms[i], terms[j]
                places = parts[i][1], parts[j][1]
                if places[0] is None or places[1] is None or bool((places[0] & places[1]).any()):
                    continue
                source = graph.nodes[terms[i][0]].sources[0]
                norm = max(a.norm, b.norm)
                pairs.append((product_up(norm, found[source]), places[0] | places[1]))
                left = [k for k in left if k not in (i, j)]
    return [parts[k] for k in left] + pairs


def _sort(graph: Graph, one: int, two: int) -> bool:
    """Whether two nodes are the minimum and the maximum of the same pairs."""
    a, b = graph.nodes[one], graph.nodes[two]
    if not (isinstance(a, Joint) and isinstance(b, Joint)):
        return False
    if {a.kind, b.kind} != {"aten.minimum", "aten.maximum"}:
        return False
    if a.source == b.source:
        return True
    first, second = graph.nodes[a.source], graph.nodes[b.source]
    return (
        isinstance(first, Affine)
        and isinstance(second, Affine)
        and len(first.terms) == len(second.terms)
        and all(
            x == y and p.same(q) for (x, p), (y, q) in zip(first.terms, second.terms, strict=True)
        )
    )


def _places(operator: Operator) -> Tensor | None:
    """Return which outputs an operator writes, or None for perhaps all."""
    if isinstance(operator, Gather):
        return operator.index >= 0
    assert isinstance(operator, Blocks)
    if operator.outputs.numel() >= operator.rows:
        return None
    written = torch.zeros(operator.rows + 1, dtype=torch.bool)
    written[operator.outputs.reshape(-1)] = True  # the last entry stands for −1
    return written[:-1]


def _apart(places: Sequence[Tensor | None]) -> list[list[int]]:
    """Group parts so that those of different groups write different outputs."""
    groups: list[tuple[list[int], Tensor | None]] = []
    for i, own in enumerate(places):
        members, union = [i], own
        rest = []
        for others, theirs in groups:
            if union is None or theirs is None or bool((union & theirs).any()):
                members += others
                union = None if union is None or theirs is None else union | theirs
            else:
                rest.append((others, theirs))
        groups = [*rest, (members, union)]
    return [members for members, _ in groups]
