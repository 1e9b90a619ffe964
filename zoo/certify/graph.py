"""The graph of a recorded network: affine combinations of atoms, for one sample.

A node is a vector of float64 numbers of one sample; the batch is gone. Nodes stand in the order in
which they are computed, and name their sources by number:

    Input                 the sample, flattened
    Affine                v = Σ_i N_i u_i + b, N_i a lazy operator (`operators`)
    Elementwise           s_j = σ_j(u_j), with all slopes of σ_j in [lo_j, hi_j]
    Joint                 groups of values mapped to groups, ‖Δs‖ ≤ lipschitz · ‖Δu‖

An atom is the input or a node of the last two kinds; what lies between is affine, so that every
node is v = Σ_i A_i s_i + b over atoms s_i. `Graph.pull` and `Graph.forms` give those A_i.
"""

# Shape letters: N samples, n the size of a node, K rows.

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...layers.lipschitz import LipschitzLayer
from .operators import Gather, Operator

__all__ = ["Affine", "Elementwise", "Graph", "Input", "Joint", "Node", "Nonlinear", "Stretch"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One value of the network.

    Attributes:
        number: Its place in `Graph.nodes`.
        size: n, how many numbers it has.
        name: The operation that made it, such as `aten.relu.default`.
        place: The path of the module that ran it, `` for the outermost.
    """

    number: int
    size: int
    name: str = ""
    place: str = ""

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the nodes that it reads."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Input(Node):
    """The sample."""


@dataclass(frozen=True, kw_only=True)
class Affine(Node):
    """v = Σ_i N_i u_i + b.

    Attributes:
        terms: The number of u_i with N_i; a source may occur more than once.
        constant: b (n,), or None for zeros. A bound of differences has no use for it.
    """

    terms: tuple[tuple[int, Operator], ...]
    constant: Tensor | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the nodes that it reads."""
        return tuple(source for source, _ in self.terms)


@dataclass(frozen=True, kw_only=True)
class Nonlinear(Node):
    """A node that is not affine in what it reads.

    Attributes:
        source: The number of u.
        function: On tensors, differentiable.
        kind: The operation without its overload, such as `aten.relu`.
        rounding: Of the function, as a share of |u| + |s|.
        parameters: Numbers that the function is made with, to tell two atoms apart.
    """

    source: int
    function: Callable[[Tensor], Tensor] = field(compare=False)
    kind: str = ""
    rounding: float = 0.0
    parameters: tuple[object, ...] = ()

    @property
    def sources(self) -> tuple[int, ...]:
        """The number of u."""
        return (self.source,)


@dataclass(frozen=True, kw_only=True)
class Elementwise(Nonlinear):
    """s_j = σ_j(u_j), of the size of u; the function takes tensors (…, n).

    Attributes:
        low: Least slope of each value (n,).
        high: Greatest slope of each value (n,).
        step: How far each value may be from what the forward computes: of a function that jumps a
            little, the graph has the one without the jump.
    """

    low: Tensor
    high: Tensor
    step: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Joint(Nonlinear):
    """Groups of values mapped to groups by one map with a Lipschitz constant.

    The function takes tensors (…, T, I) to (…, T, O); u has the size T · I, group after group.

    Attributes:
        groups: T.
        lipschitz: Of the map of all groups together, in the L2 norm on both sides.
    """

    groups: int
    lipschitz: float


class Stretch(NamedTuple):
    """Where a layer that is Lipschitz by construction starts and ends.

    Attributes:
        name: The path of the layer.
        layer: The layer itself: its multipliers are hints, and nothing else of it is believed.
        start: The number of the node that it reads.
        end: The number of the node that it returns.
    """

    name: str
    layer: LipschitzLayer
    start: int
    end: int


@dataclass(frozen=True)
class Graph:
    """A recorded network.

    Attributes:
        nodes: In the order in which they are computed; the first is the input.
        output: The number of what the network returns.
        input_shape: Of one sample.
        output_shape: Of one sample.
        stretches: Layers with a constant by construction.
        coarsest: The type of the fewest digits that the forward rounds a value to.
        kernels: Families of compiled kernels that ran in the plain forward where the recording has
            their definitions, and operators of other libraries than torch.
    """

    nodes: tuple[Node, ...]
    output: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stretches: tuple[Stretch, ...] = ()
    coarsest: torch.dtype = torch.float64
    kernels: tuple[str, ...] = ()

    @property
    def atoms(self) -> tuple[int, ...]:
        """Numbers of the nodes that are not affine in others."""
        return tuple(node.number for node in self.nodes if not isinstance(node, Affine))

    def behind_division(self, std: Tensor) -> "Graph":
        """Return the graph that divides its input by numbers first, one or one for each channel."""
        size = self.nodes[0].size
        each = std.double().repeat_interleave(size // len(std))
        divided = Gather(torch.arange(size), 1 / each, size, 1)
        nodes: list[Node] = [self.nodes[0]]
        nodes.append(Affine(number=1, size=size, name="input_std", terms=((0, divided),)))
        for node in self.nodes[1:]:
            moved = {"number": node.number + 1}
            if isinstance(node, Affine):
                moved["terms"] = tuple((n + 1, op) for n, op in node.terms)  # pyright: ignore
            elif isinstance(node, Nonlinear):
                moved["source"] = node.source + 1
            nodes.append(replace(node, **moved))
        stretches = tuple(s._replace(start=s.start + 1, end=s.end + 1) for s in self.stretches)
        return replace(self, nodes=tuple(nodes), output=self.output + 1, stretches=stretches)

    def users(self) -> list[list[int]]:
        """Numbers of the nodes that read each node."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for source in dict.fromkeys(node.sources):
                found[source].append(node.number)
        return found

    def values(self, x: Tensor) -> list[Tensor]:
        """Return the value (N, size) of every node in float64; differentiable.

        Args:
            x: Samples (N, …).
        """
        found: list[Tensor] = []
        for node in self.nodes:
            found.append(self._value(node, found, x))
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the network returns for samples (N, …), in float64."""
        found = x
        for number, value in self.each(x):
            if number == self.output:
                found = value
        return found.reshape(len(x), *self.output_shape)

    def each(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and the value (N, size) of every node, which are not kept."""
        found: dict[int, Tensor] = {}
        last = {source: node.number for node in self.nodes for source in node.sources}
        for node in self.nodes:
            found[node.number] = self._value(node, found, x)
            yield node.number, found[node.number]
            for source in dict.fromkeys(node.sources):
                if last[source] == node.number:
                    del found[source]

    def _value(self, node: Node, found: Sequence[Tensor] | dict[int, Tensor], x: Tensor) -> Tensor:
        if isinstance(node, Affine):
            total = x.new_zeros(len(x), node.size, dtype=torch.float64)
            for source, operator in node.terms:
                total = total + operator.apply(found[source].T).T
            return total if node.constant is None else total + node.constant
        if isinstance(node, Elementwise):
            return node.function(found[node.source])
        if isinstance(node, Joint):
            return node.function(found[node.source].unflatten(1, (node.groups, -1))).flatten(1)
        return x.reshape(len(x), -1).double()

    def pull(
        self, number: int, rows: Tensor, cut: Sequence[int] = ()
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Write rows of a node as rows of the atoms behind it.

        rows · v = Σ_i R_i s_i + c

        Args:
            number: Of v.
            rows: (K, size of v).
            cut: Nodes that are to be treated as atoms too.

        Returns:
            R_i (K, size of s_i) by the number of the atom s_i, and c (K,).
        """
        stops = set(self.atoms) | set(cut)
        total = rows.new_zeros(len(rows))
        waiting, found = {number: rows}, {}
        for at in range(number, -1, -1):
            if at not in waiting:
                continue
            own = waiting.pop(at)
            node = self.nodes[at]
            if at in stops or not isinstance(node, Affine):
                found[at] = own
                continue
            if node.constant is not None:
                total = total + own @ node.constant
            for source, operator in node.terms:
                part = operator.adjoint(own)
                waiting[source] = waiting[source] + part if source in waiting else part
        return found, total

    def forms(self, number: int, cut: Sequence[int] = ()) -> tuple[dict[int, Tensor], Tensor]:
        """Return A_i (size of v, size of s_i) with v = Σ_i A_i s_i + b, by atom, and b."""
        eye = torch.eye(self.nodes[number].size, dtype=torch.float64)
        return self.pull(number, eye, cut)
