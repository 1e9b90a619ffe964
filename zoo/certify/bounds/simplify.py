"""A graph for bounds: affine nodes composed with one another where that loses nothing.

Bounds of differences need neither constants nor functions. What moves and scales values is folded
into the maps before or behind it; what stays are stations: the input, atoms, and sums that several
others read.

A scaling in front of a function of each element is carried behind it: with D the diagonal of
slopes, D diag(s) = diag(s) D.
"""

# Shape letters: n size of a node, T groups, C channels.

from collections import Counter

import torch

from ..graph import Affine, Elementwise, Graph, Input, Joint, Node
from ..operators import Blocks, Gather, Operator
from .compose import Terms, after, identity, is_plain, merged

__all__ = ["simplified"]


def simplified(graph: Graph) -> Graph:
    """Return a graph with the same differences and the same stretches."""
    work = _Simplify(graph)
    output = work.station(graph.output)
    stretches = tuple(
        stretch._replace(start=work.stations[stretch.start], end=work.stations[stretch.end])
        for stretch in graph.stretches
    )
    return Graph(tuple(work.nodes), output, graph.input_shape, graph.output_shape, stretches)


class _Simplify:
    """Nodes that are made so far, and the terms of every node of the old graph in stations."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = []
        self.old = graph.nodes
        self.stations: dict[int, int] = {}
        self.terms: dict[int, Terms] = {}
        self.users = graph.users()
        self.reads = Counter(source for node in graph.nodes for source in node.sources)
        ends = {end for stretch in graph.stretches for end in stretch[2:]}
        for node in graph.nodes:
            self.terms[node.number] = self.add(node)
            if node.number in ends:
                self.station(node.number)

    def add(self, node: Node) -> Terms:
        """Return the terms of one node."""
        if isinstance(node, Affine):
            found: Terms = []
            for source, operator in node.terms:
                found += self.through(source, operator)
            return merged(found)
        if isinstance(node, Elementwise):
            return self.elementwise(node)
        if isinstance(node, Joint):
            source = self.station(node.source)
            return self.atom(
                node,
                Joint(
                    number=len(self.nodes), size=node.size, name=node.name, place=node.place,
                    source=source, groups=node.groups, lipschitz=node.lipschitz,
                    function=node.function, kind=node.kind,
                ),
            )  # fmt: skip
        assert isinstance(node, Input)
        return self.atom(node, Input(number=0, size=node.size))

    def atom(self, node: Node, made: Node) -> Terms:
        """Append an atom, which is a station."""
        self.nodes.append(made)
        self.stations[node.number] = made.number
        return [(made.number, identity(made.size))]

    def elementwise(self, node: Elementwise) -> Terms:
        """Append a function of each element, with a scaling in front of it carried behind."""
        terms, scale, rounded = self.terms[node.source], None, 0
        source = None
        if len(terms) == 1 and isinstance(terms[0][1], Gather) and terms[0][1].scale is not None:
            only = terms[0][1]
            scale, rounded = only.scale, only.rounded
            bare: Terms = [(terms[0][0], Gather(only.index, None, only.columns))]
            source = self.make(bare, node)
        source = self.station(node.source) if source is None else source
        made = Elementwise(
            number=len(self.nodes), size=node.size, name=node.name, place=node.place,
            source=source, low=node.low, high=node.high, function=node.function, kind=node.kind,
        )  # fmt: skip
        self.nodes.append(made)
        if scale is None:
            self.stations[node.number] = made.number
            return [(made.number, identity(made.size))]
        return [(made.number, Gather(torch.arange(made.size), scale, made.size, rounded))]

    def station(self, old: int) -> int:
        """Return the node that holds the value of an old one, made if there is none yet."""
        if old not in self.stations:
            self.stations[old] = self.make(self.terms[old], self.old[old])
            size = self.old[old].size
            self.terms[old] = [(self.stations[old], identity(size))]
        return self.stations[old]

    def make(self, terms: Terms, like: Node) -> int:
        """Append a sum, or return the node that it is all of."""
        if len(terms) == 1:
            number, operator = terms[0]
            if isinstance(operator, Gather) and operator.identity and operator.scale is None:
                return number
        made = Affine(
            number=len(self.nodes), size=like.size, name=like.name, place=like.place,
            terms=tuple(terms),
        )  # fmt: skip
        self.nodes.append(made)
        return made.number

    def through(self, source: int, operator: Operator) -> Terms:
        """Return an operator on an old node in terms of stations."""
        terms = self.terms[source]
        spread = isinstance(operator, Gather) and not is_plain(operator)
        shared = len(self.users[source]) > 1
        heavy = any(isinstance(op, Blocks) for _, op in terms)
        wide = isinstance(operator, Blocks) and shared and heavy
        if isinstance(operator, Gather) and heavy and self.reads[source] > 1:
            # Parts that several read are not bounded one by one.
            kept = operator.index[operator.index >= 0].unique()
            wide = wide or len(kept) < operator.columns
        if not wide and not (spread and (len(terms) > 1 or (shared and heavy))):
            composed = [(number, after(operator, op)) for number, op in terms]
            if all(op is not None for _, op in composed) and (
                len(terms) == 1 or isinstance(operator, Gather)
            ):
                return [(number, op) for number, op in composed if op is not None]
        return [(self.station(source), operator)]
