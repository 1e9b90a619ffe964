"""Proved Lipschitz bounds of a recorded network.

The stations that every path passes cut the network into hops. The bound of a hop is that along its
paths; a longer stretch, as long as its matrices fit, is bounded in one piece by the matrix
inequality; and the least product over all ways to cut is the bound of the network.
"""

# Shape letters: K classes.

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...layers.lipschitz.proof.norms import gamma, product_up, root_up, sum_up
from .dense import dense_segment, order
from .graph import Affine, Graph
from .operators import Blocks, ConvMap, Gather, Operator
from .paths import along_paths, dominators
from .simplify import simplified

__all__ = ["Bounds", "Row"]

WIDEST = 1024  # order of the matrix inequality that is still solved


class Row(NamedTuple):
    """One line of a certificate's table."""

    name: str
    lipschitz: float
    method: str
    verified: bool


class Edge(NamedTuple):
    """A bound of a stretch between two stations, and how it was found."""

    start: int
    lipschitz: float
    method: str


@dataclass
class Bounds:
    """Bounds of the stations of one graph.

    Args:
        graph: As recorded.
        method: `auto`, or `product` to leave the matrix inequality out.
    """

    graph: Graph
    method: str = "auto"
    edges: dict[int, list[Edge]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Simplify the graph."""
        self.simple, _ = simplified(self.graph)

    def lipschitz(self) -> float:
        """Return the bound of the network."""
        return self.best(self.simple.output)[0]

    def rows(self) -> tuple[Row, ...]:
        """Return the stretches whose product is the bound of the network."""
        return tuple(self.best(self.simple.output)[1])

    def best(self, target: int) -> tuple[float, list[Row]]:
        """Return the least bound of a station, and its stretches."""
        passed = dominators(self.simple, target)
        least: dict[int, float] = {passed[0]: 1.0}
        chosen: dict[int, Edge] = {}
        own = self._edges(target, passed)
        for number in passed[1:]:
            options = [
                (product_up(least[edge.start], edge.lipschitz), edge)
                for edge in own[number]
                if edge.start in least
            ]
            least[number], chosen[number] = min(options, key=lambda option: option[0])
        rows, at = [], target
        while at != passed[0]:
            edge = chosen[at]
            if edge.lipschitz != 1.0 or edge.method != "product":
                rows.append(Row(self._name(at), edge.lipschitz, edge.method, True))
            at = edge.start
        return least[target], rows[::-1]

    def _name(self, number: int) -> str:
        node = self.simple.nodes[number]
        return node.place or node.name.removeprefix("aten.").rpartition(".")[0] or "output"

    def _edges(self, target: int, passed: list[int]) -> dict[int, list[Edge]]:
        found: dict[int, list[Edge]] = {number: [] for number in passed}
        for before, number in zip(passed, passed[1:], strict=False):
            found[number].append(self._edge(before, number, "path"))
        end = len(passed) - 1
        while end > 0:
            start = end
            while start > 0 and order(self.simple, passed[start - 1], passed[end]) <= WIDEST:
                start -= 1
            if start < end - 1 or (start == end - 1 and self._worth(passed[start], passed[end])):
                found[passed[end]].append(self._edge(passed[start], passed[end], "dense"))
            end = min(start, end - 1)
        return found

    def _worth(self, start: int, end: int) -> bool:
        """Whether one hop has more in it than one map."""
        node = self.simple.nodes[end]
        return isinstance(node, Affine) and len(node.terms) > 1

    def _edge(self, start: int, end: int, kind: str) -> Edge:
        known = self.edges.setdefault(end, [])
        for edge in known:
            if edge.start == start and (edge.method == "product") == (kind == "path"):
                return edge
        edge = self._hop(start, end) if kind == "path" else self._dense(start, end)
        known.append(edge)
        return edge

    def _hop(self, start: int, end: int) -> Edge:
        return Edge(start, along_paths(self.simple, start, end)[end], "product")

    def _dense(self, start: int, end: int) -> Edge:
        segment = dense_segment(self.simple, start, end)
        if segment.signals and self.method == "product":
            return Edge(start, math.inf, "lmi")
        if not segment.signals:
            return Edge(start, segment.linear(), "exact")
        return Edge(start, segment.searched(), "lmi")

    def pairs(self) -> Tensor:
        """Bound the differences of each two outputs (K, K)."""
        node = self.simple.nodes[self.simple.output]
        classes = node.size
        whole = torch.full((classes, classes), product_up(root_up(2.0), self.lipschitz()))
        whole = whole.double()
        if not isinstance(node, Affine) or whole.isinf().all():
            return whole
        total = torch.zeros_like(whole)
        for source, operator in node.terms:
            rows, error = _rows(operator)
            spread = torch.stack([(row - rows).norm(dim=1) for row in rows])
            spread = (spread + error) * (1 + gamma(rows.shape[1] + 24)) + 1e-300
            total = total + spread * self.best(source)[0]
        return torch.minimum(whole, total * (1 + gamma(8 * len(node.terms))))


def _rows(operator: Operator) -> tuple[Tensor, float]:
    """Return the rows of an operator and what the difference of two may be off by."""
    rows = operator.adjoint(torch.eye(operator.rows, dtype=torch.float64))
    largest = float(rows.norm(dim=1).max()) * (1 + 1e-6) if rows.numel() else 0.0
    roundings = operator.roundings + 2 if not isinstance(operator, Gather) else operator.rounded
    error = product_up(2 * gamma(roundings), largest)
    if isinstance(operator, Blocks) and not isinstance(operator.base, ConvMap):
        error = sum_up(error, 2 * operator.base.error)
    return rows, error
