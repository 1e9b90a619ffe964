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
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma
from ..graph import Affine, Elementwise, Graph, Input, Joint, Node
from ..maps import ConvMap, MatrixMap
from ..operators import Base, Blocks, Gather, Operator

__all__ = ["simplified"]

Terms = list[tuple[int, Operator]]


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
        return [(made.number, _identity(made.size))]

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
            return [(made.number, _identity(made.size))]
        return [(made.number, Gather(torch.arange(made.size), scale, made.size, rounded))]

    def station(self, old: int) -> int:
        """Return the node that holds the value of an old one, made if there is none yet."""
        if old not in self.stations:
            self.stations[old] = self.make(self.terms[old], self.old[old])
            size = self.old[old].size
            self.terms[old] = [(self.stations[old], _identity(size))]
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
        spread = isinstance(operator, Gather) and not _plain(operator)
        shared = len(self.users[source]) > 1
        heavy = any(isinstance(op, Blocks) for _, op in terms)
        wide = isinstance(operator, Blocks) and shared and heavy
        if isinstance(operator, Gather) and heavy and self.reads[source] > 1:
            # Parts that several read are not bounded one by one.
            kept = operator.index[operator.index >= 0].unique()
            wide = wide or len(kept) < operator.columns
        if not wide and not (spread and (len(terms) > 1 or (shared and heavy))):
            composed = [(number, _after(operator, op)) for number, op in terms]
            if all(op is not None for _, op in composed) and (
                len(terms) == 1 or isinstance(operator, Gather)
            ):
                return [(number, op) for number, op in composed if op is not None]
        return [(self.station(source), operator)]


def merged(terms: Terms) -> Terms:
    """Write movements from one station to different places, and sums of matrices, as one."""
    found: Terms = []
    for number, operator in terms:
        for place, (other, before) in enumerate(found):
            if other == number:
                both = None
                if isinstance(operator, Gather) and isinstance(before, Gather):
                    both = _union(before, operator)
                elif isinstance(operator, Blocks) and isinstance(before, Blocks):
                    both = _added(before, operator)
                if both is not None:
                    found[place] = (number, both)
                    break
        else:
            found.append((number, operator))
    return found


def _union(a: Gather, b: Gather) -> Gather | None:
    """Return the sum of two movements, where no place is written by both from two others."""
    both = (a.index >= 0) & (b.index >= 0)
    if bool((a.index[both] != b.index[both]).any()):
        return None
    index = torch.maximum(a.index, b.index)
    rounded = max(a.rounded, b.rounded)
    if a.scale is None and b.scale is None and not bool(both.any()):
        return Gather(index, None, a.columns)
    scale = sum(_scales(g) * (g.index >= 0) for g in (a, b))
    assert isinstance(scale, Tensor)
    if bool(both.any()):
        cancels = (scale.abs() < 0.5 * (_scales(a).abs() + _scales(b).abs())) & both
        if bool(cancels.any()):
            return None  # its rounding is no share of it
        rounded = 2 * rounded + 2
    return Gather(index, scale, a.columns, rounded)


def _after(outer: Operator, inner: Operator) -> Operator | None:
    """Return outer ∘ inner as one operator, or None where that is none of the two kinds."""
    if isinstance(outer, Gather) and isinstance(inner, Gather):
        index = _looked_up(inner.index, outer.index)
        if outer.scale is None and inner.scale is None:
            return Gather(index, None, inner.columns)
        ones = torch.ones(inner.rows + 1, dtype=torch.float64)
        if inner.scale is not None:
            ones[:-1] = inner.scale
        scale = ones[outer.index] * _scales(outer)
        rounded = outer.rounded + inner.rounded
        rounded += 1 if outer.scale is not None and inner.scale is not None else 0
        return Gather(index, scale, inner.columns, rounded)
    if isinstance(outer, Gather) and isinstance(inner, Blocks):
        return _moved(outer, inner)
    if isinstance(outer, Blocks) and isinstance(inner, Gather):
        return _read(outer, inner)
    assert isinstance(outer, Blocks) and isinstance(inner, Blocks)
    return _multiplied(outer, inner)


def _multiplied(outer: Blocks, inner: Blocks) -> Blocks | None:
    """Multiply two matrices that stand behind one another in the same groups."""
    a, b = outer.base, inner.base
    if not isinstance(a, MatrixMap) or not isinstance(b, MatrixMap):
        return None
    if a.weight.dim() != 2 or b.weight.dim() != 2:
        return None
    if not torch.equal(outer.inputs, inner.outputs) or bool((inner.outputs < 0).any()):
        return None
    weight = a.weight @ b.weight
    sizes = float(a.weight.norm()), float(b.weight.norm())
    error = gamma(a.weight.shape[1] + 2) * sizes[0] * sizes[1]
    error += sizes[0] * b.error + a.error * sizes[1] + a.error * b.error
    return Blocks(
        MatrixMap(weight, error * (1 + 1e-6)), inner.inputs, outer.outputs, inner.columns,
        outer.rows,
    )  # fmt: skip


def _added(a: Blocks, b: Blocks) -> Blocks | None:
    """Add two matrices that read and write the same groups."""
    one, two = a.base, b.base
    if not isinstance(one, MatrixMap) or not isinstance(two, MatrixMap):
        return None
    if one.weight.shape != two.weight.shape or one.weight.dim() != 2:
        return None
    if not (torch.equal(a.inputs, b.inputs) and torch.equal(a.outputs, b.outputs)):
        return None
    weight = one.weight + two.weight
    error = (one.error + two.error + gamma(1) * float(weight.norm())) * (1 + 1e-6)
    return Blocks(MatrixMap(weight, error), a.inputs, a.outputs, a.columns, a.rows)


def _moved(outer: Gather, inner: Blocks) -> Blocks | None:
    """Move the outputs of blocks, and scale them where that is one number for each channel."""
    used = outer.index[outer.index >= 0]
    if len(used.unique()) != len(used):
        return None
    back = torch.full((inner.rows + 1,), -1)
    back[used] = (outer.index >= 0).nonzero().squeeze(1)
    outputs = back[inner.outputs]  # the last entry stands for −1
    base = inner.base
    if outer.scale is not None:
        scales = torch.cat([outer.scale, outer.scale.new_full((1,), torch.nan)])[outputs]
        found = _scaled(base, scales, outer.rounded)
        if found is None:
            return None
        base = found
    return Blocks(base, inner.inputs, outputs, inner.columns, outer.rows)


def _scaled(base: Base, scales: Tensor, rounded: int) -> Base | None:
    """Scale the outputs of a map; NaN stands for outputs that nothing reads."""
    if isinstance(base, ConvMap):
        grouped = scales.view(len(scales), base.out_shape[0], -1).transpose(0, 1).flatten(1)
    elif isinstance(base, MatrixMap) and base.weight.dim() == 2:
        grouped = scales.mT
    else:
        return None
    known = ~grouped.isnan()
    if not bool(known.any(1).all()):
        grouped = grouped.where(known.any(1, keepdim=True), 0.0)
        known = ~grouped.isnan()
    first = grouped.gather(1, known.long().argmax(1, keepdim=True))
    if not bool(((grouped == first) | ~known).all()):
        return None
    factors = first.squeeze(1)
    if isinstance(base, ConvMap):
        return base.scaled(factors, rounded)
    weight = base.weight * factors[:, None]
    most = float(factors.abs().max())
    error = gamma(rounded + 1) * float(weight.norm()) * 1.01 + 1.01 * most * base.error
    return MatrixMap(weight, error)


def _read(outer: Blocks, inner: Gather) -> Blocks | None:
    """Read the inputs of blocks from elsewhere, scaled by one number for each channel."""
    inputs = _looked_up(inner.index, outer.inputs)
    base = outer.base
    if inner.scale is not None:
        padded = torch.cat([inner.scale, inner.scale.new_full((1,), torch.nan)])
        scales = padded[outer.inputs]
        found = _columns_scaled(base, scales, inner.rounded)
        if found is None:
            return None
        base = found
    return Blocks(base, inputs, outer.outputs, inner.columns, outer.rows)


def _columns_scaled(base: Base, scales: Tensor, rounded: int) -> Base | None:
    if isinstance(base, ConvMap):
        grouped = scales.view(len(scales), base.channels, -1).transpose(0, 1).flatten(1)
    elif isinstance(base, MatrixMap) and base.weight.dim() == 2:
        grouped = scales.mT
    else:
        return None
    known = ~grouped.isnan()
    first = grouped.gather(1, known.long().argmax(1, keepdim=True))
    first = first.where(known.any(1, keepdim=True), 0.0)
    if not bool(((grouped == first) | ~known).all()):
        return None
    factors = first.squeeze(1)
    if isinstance(base, ConvMap):
        return base.read_scaled(factors, rounded)
    weight = base.weight * factors
    most = float(factors.abs().max())
    error = gamma(rounded + 1) * float(weight.norm()) * 1.01 + 1.01 * most * base.error
    return MatrixMap(weight, error)


def _plain(operator: Gather) -> bool:
    """Whether a movement scales all that it moves by one number."""
    return operator.scale is None or bool((operator.scale == operator.scale[:1]).all())


def _scales(operator: Gather) -> Tensor:
    ones = torch.ones(operator.rows, dtype=torch.float64)
    return ones if operator.scale is None else operator.scale


def _looked_up(places: Tensor, index: Tensor) -> Tensor:
    return torch.cat([places, places.new_full((1,), -1)])[index]


def _identity(size: int) -> Gather:
    return Gather(torch.arange(size), None, size)
