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

from ....layers.lipschitz.proof.norms import gamma, product_up, root_up, sum_up
from ..graph import Affine, Elementwise, Graph
from ..maps import ConvMap, MatrixMap
from ..operators import Blocks, Gather, Operator
from .dense import dense_segment, order
from .hints import by_frequencies, by_multipliers, shear
from .paths import along_paths, between, dominators
from .simplify import simplified

__all__ = ["Bounds", "Row"]

WIDEST = 1024  # order of the matrix inequality that is still solved
WIDEST_IMAGES = 384  # the same where convolutions would become matrices
WIDEST_CONSTRUCTED = 256  # the same where every function has multipliers of its layer's own


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
    name: str = ""


@dataclass
class Bounds:
    """Bounds of the stations of one graph.

    Args:
        graph: As recorded.
        method: `auto`, or `product` to leave the search for multipliers out.
        verify: Whether layers that are Lipschitz by construction are proved, or believed.
    """

    graph: Graph
    method: str = "auto"
    verify: bool = True
    edges: dict[tuple[int, int, str], Edge] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Simplify the graph."""
        self.simple = simplified(self.graph)
        self.hints = {(hint.start, hint.end): hint for hint in self.simple.stretches}
        self.hinted = {n for ends in self.hints for n in between(self.simple, *ends)}

    def lipschitz(self) -> float:
        """Return the bound of the network."""
        return self.best(self.simple.output)[0]

    def rows(self) -> tuple[Row, ...]:
        """Return the stretches whose product is the bound of the network."""
        return tuple(self.best(self.simple.output)[1])

    def best(self, target: int) -> tuple[float, list[Row]]:
        """Return the least bound of a station, and its stretches."""
        passed = dominators(self.simple, target)
        if not passed:  # no path leads from the input to it
            return 0.0, []
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
                believed = edge.method == "construction" and not self.verify
                name = edge.name or self._name(at)
                rows.append(Row(name, edge.lipschitz, edge.method, not believed))
            at = edge.start
        return least[target], rows[::-1]

    def _name(self, number: int) -> str:
        node = self.simple.nodes[number]
        return node.place or node.name.removeprefix("aten.").rpartition(".")[0] or "output"

    def _edges(self, target: int, passed: list[int]) -> dict[int, list[Edge]]:
        found: dict[int, list[Edge]] = {number: [] for number in passed}
        for before, number in zip(passed, passed[1:], strict=False):
            found[number].append(self._edge(before, number, "path"))
            found[number].append(self._edge(before, number, "shear"))
        for start, end in self.hints:
            if start in found and end in found and start != end:
                found[end].append(self._edge(start, end, "hint"))
        end = len(passed) - 1
        while end > 0:
            start = end
            while start > 0 and self._fits(passed[start - 1], passed[end]):
                start -= 1
            if start < end - 1 or (start == end - 1 and self._worth(passed[start], passed[end])):
                found[passed[end]].append(self._edge(passed[start], passed[end], "dense"))
            end = min(start, end - 1)
        return found

    def _worth(self, start: int, end: int) -> bool:
        """Whether one hop has more in it than one map."""
        node = self.simple.nodes[end]
        return isinstance(node, Affine) and len(node.terms) > 1

    def _fits(self, start: int, end: int) -> bool:
        """Whether the inequality over a stretch is small enough to be searched."""
        inside = between(self.simple, start, end)
        images = any(
            isinstance(op, Blocks) and not isinstance(op.base, MatrixMap)
            for number in inside[1:]
            for _, op in getattr(self.simple.nodes[number], "terms", ())
        )
        functions = {n for n in inside[1:] if isinstance(self.simple.nodes[n], Elementwise)}
        if images:
            widest = WIDEST_IMAGES
        elif functions and functions <= self.hinted:
            widest = WIDEST_CONSTRUCTED
        else:
            widest = WIDEST
        return order(self.simple, start, end) <= widest

    def _edge(self, start: int, end: int, kind: str) -> Edge:
        if (start, end, kind) not in self.edges:
            make = {
                "path": self._hop, "dense": self._dense, "hint": self._hint, "shear": self._shear,
            }  # fmt: skip
            self.edges[start, end, kind] = make[kind](start, end)
        return self.edges[start, end, kind]

    def _hint(self, start: int, end: int) -> Edge:
        stretch = self.hints[start, end]
        if not self.verify:
            return Edge(start, stretch.layer.lipschitz, "construction", stretch.name)
        found = math.inf
        for prove in (by_frequencies, shear, by_multipliers):
            if found == math.inf:
                found = prove(self.simple, start, end, stretch.layer)
        return Edge(start, found, "construction", stretch.name)

    def _shear(self, start: int, end: int) -> Edge:
        if (start, end) in self.hints:
            return Edge(start, math.inf, "lmi")
        return Edge(start, shear(self.simple, start, end), "lmi")

    def _hop(self, start: int, end: int) -> Edge:
        return Edge(start, self._along(start, end), "product")

    def _along(self, start: int, end: int) -> float:
        return along_paths(self.simple, start, end)[end]

    def _dense(self, start: int, end: int) -> Edge:
        nothing = self._along(start, end) == 0.0  # and nothing to search for
        segment = dense_segment(self.simple, start, end)
        if nothing or (segment.signals and self.method == "product"):
            return Edge(start, math.inf, "lmi")
        if not segment.signals:
            return Edge(start, segment.linear(), "exact")
        return Edge(start, segment.searched(), "lmi")

    def body(self) -> float:
        """Return the largest bound of what the last affine map reads."""
        node = self.simple.nodes[self.simple.output]
        if not isinstance(node, Affine) or not node.terms:
            return self.lipschitz()
        return max(self.best(source)[0] for source in node.sources)

    def pairs(self) -> Tensor:
        """Bound the differences of each two outputs (K, K)."""
        node = self.simple.nodes[self.simple.output]
        classes = node.size
        most = product_up(root_up(2.0), self.lipschitz())
        whole = torch.full((classes, classes), most, dtype=torch.float64)
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
