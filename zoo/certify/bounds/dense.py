"""The matrix inequality over a segment of a graph, with dense matrices.

Between a station w_0 and a target, the functions w_1 … w_n read z_k = Σ_j C_kj w_j, and the target
is y = A w_0 + Σ_k B_k w_k. A slope in [lo, hi] is made one in [0, 1] by
σ(z) = lo z + (hi − lo) σ̃(z), which changes the matrices and nothing else.

The matrices are products, rounded in float64. What is proved for the rounded ones is carried over
to the true ones by a bound along the paths: for every choice of slopes the map of differences is
linear, and the two differ by at most δ, with e_kj the error of C_kj and P a product bound,

    δ(z_k) ≤ Σ_j ‖C_kj‖ δ(w_j) + e_kj (P(w_j) + δ(w_j)),      δ(w_k) ≤ δ(z_k).
"""

# Shape letters: d_0 … d_n sizes of the signals, d_y of the target.

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....layers.lipschitz.proof.constant import verified_lipschitz
from ....layers.lipschitz.proof.inequality import LMIBlock
from ....layers.lipschitz.proof.multipliers import lmi_lipschitz
from ....layers.lipschitz.proof.norms import gamma, product_up, spectral_bound, sum_up
from ..graph import Affine, Elementwise, Graph
from ..maps import ConvMap, MatrixMap
from ..operators import Blocks, Gather, Operator
from .paths import between

__all__ = ["Dense", "dense_segment", "order"]

SMALL = 256  # up to this size norms in the error are proved, above they are Frobenius norms


@dataclass(frozen=True)
class Matrix:
    """A matrix in float64 with a bound of its norm and of its distance from the true one."""

    value: Tensor
    norm: float
    error: float


@dataclass(frozen=True)
class Dense:
    """A segment in the form of the inequality, slopes in [0, 1].

    Attributes:
        inner: C_k as the row of its blocks on w_0 … w_{k−1}.
        out: A, B_1 … B_n.
        lost: δ of the target: what the true constant may exceed that of the matrices by.
        signals: Numbers of w_1 … w_n.
    """

    inner: tuple[tuple[Matrix, ...], ...]
    out: tuple[Matrix, ...]
    lost: float
    signals: tuple[int, ...]

    def block(self, multipliers: Sequence[Tensor] = ()) -> LMIBlock:
        """Return the block whose inequality is to be proved."""
        inner = tuple(torch.cat([m.value for m in row], dim=1) for row in self.inner)
        taps = tuple(m.value for m in self.out[1:])
        return LMIBlock(self.out[0].value, inner, taps, tuple(multipliers))

    def searched(self) -> float:
        """Return a proved constant, its multipliers searched."""
        if not self.signals:
            return self.linear()
        block = self.block()
        try:
            found = lmi_lipschitz(block.skip, block.inner, block.taps)
        except torch.linalg.LinAlgError:  # at the end of float64
            return math.inf
        return sum_up(found, self.lost)

    def verified(self, multipliers: Sequence[Tensor]) -> float:
        """Return the constant that given multipliers prove."""
        return sum_up(verified_lipschitz(self.block(multipliers)), self.lost)

    def linear(self) -> float:
        """Return the norm of a segment without functions."""
        return spectral_bound(self.out[0].value, error=self.out[0].error)


def order(graph: Graph, start: int, target: int) -> float:
    """Return the order of a segment's inequality; infinity where it holds a joint map."""
    total = graph.nodes[start].size
    for number in between(graph, start, target):
        node = graph.nodes[number]
        if number != start and not isinstance(node, (Affine, Elementwise)):
            return math.inf
        if isinstance(node, Elementwise) and number != start:
            total += node.size
    return max(total, graph.nodes[target].size)


def dense_segment(graph: Graph, start: int, target: int) -> Dense:
    """Return a segment's matrices.

    Args:
        graph: Whose nodes between the two are affine or functions of each element.
        start: A node that dominates the target.
        target: The last node.
    """
    inside = [n for n in between(graph, start, target) if n != start]
    atoms = [n for n in inside if isinstance(graph.nodes[n], Elementwise)]
    signals = [start, *atoms]
    sizes = [graph.nodes[n].size for n in signals]
    reads: dict[int, dict[int, Matrix]] = {}  # z of each function in the new signals
    rows = []
    for atom in atoms:
        node = graph.nodes[atom]
        assert isinstance(node, Elementwise)
        reads[atom] = _in_signals(graph, node.source, start, atoms, reads)
        before = signals[: signals.index(atom)]
        rows.append(_row(reads[atom], before, sizes, node.size))
    last = _in_signals(graph, target, start, atoms, reads)
    out = _row(last, signals, sizes, graph.nodes[target].size)
    product, lost = [1.0], [0.0]
    for row in rows:
        product.append(_product(row, product))
        lost.append(_lost(row, product, lost))
    return Dense(tuple(rows), out, _lost(out, product, lost), tuple(atoms))


def _product(row: Sequence[Matrix], product: Sequence[float]) -> float:
    return sum_up(*(product_up(m.norm, p) for m, p in zip(row, product, strict=False)))


def _lost(row: Sequence[Matrix], product: Sequence[float], lost: Sequence[float]) -> float:
    parts = []
    for m, p, d in zip(row, product, lost, strict=False):
        parts += [product_up(m.norm, d), product_up(m.error, sum_up(p, d))]
    return sum_up(*parts)


def _row(
    blocks: dict[int, Matrix], signals: Sequence[int], sizes: Sequence[int], rows: int
) -> tuple[Matrix, ...]:
    return tuple(
        blocks.get(n) or Matrix(torch.zeros(rows, size, dtype=torch.float64), 0.0, 0.0)
        for n, size in zip(signals, sizes, strict=False)
    )


def _in_signals(
    graph: Graph, number: int, start: int, atoms: Sequence[int], reads: dict[int, dict[int, Matrix]]
) -> dict[int, Matrix]:
    """Write a node in the signals whose slopes lie in [0, 1]."""
    found: dict[int, Matrix] = {}
    for source, a in _pulled(graph, number, start, atoms).items():
        if source == start:
            found[start] = _plus(found.get(start), a)
            continue
        node = graph.nodes[source]
        assert isinstance(node, Elementwise)
        low, high = node.low, node.high
        if bool((low == 0).all()) and bool((high == 1).all()):
            found[source] = _plus(found.get(source), a)
            continue
        span = torch.nextafter(high - low, torch.tensor(math.inf, dtype=torch.float64))
        found[source] = _plus(found.get(source), _times_diagonal(a, span))
        if bool((low != 0).any()):
            bent = _times_diagonal(a, low)
            for signal, z in reads[source].items():
                found[signal] = _plus(found.get(signal), _times(bent, z))
    return found


def _pulled(graph: Graph, number: int, start: int, atoms: Sequence[int]) -> dict[int, Matrix]:
    """Write a node in the atoms before it, with the error of the rounding."""
    stops = {start, *atoms}
    size = graph.nodes[number].size
    waiting = {number: (torch.eye(size, dtype=torch.float64), 0.0)}
    found: dict[int, Matrix] = {}
    for at in range(number, start - 1, -1):
        if at not in waiting:
            continue
        rows, error = waiting.pop(at)
        node = graph.nodes[at]
        if at in stops:
            found[at] = Matrix(rows, _norm(rows), error)
            continue
        assert isinstance(node, Affine)
        frobenius = float(rows.norm()) * (1 + 1e-6)
        for source, operator in node.terms:
            if source < start:
                continue
            part = operator.adjoint(rows)
            lost = sum_up(
                product_up(operator.norm, error),
                product_up(gamma(_roundings(operator)), operator.loose, frobenius),
            )
            if isinstance(operator, Blocks) and not isinstance(operator.base, ConvMap):
                lost = sum_up(lost, product_up(operator.base.error, frobenius))
            if source in waiting:
                before, other = waiting[source]
                part = before + part
                lost = sum_up(lost, other, gamma(1) * float(part.norm()) * (1 + 1e-6))
            waiting[source] = part, lost
    return found


def _roundings(operator: Operator) -> int:
    """Roundings of one entry of rows times an operator, generously."""
    if isinstance(operator, Gather):
        used = operator.index[operator.index >= 0]
        shared = int(used.bincount().max()) if len(used) else 0
        return shared + operator.rounded + 2
    assert isinstance(operator, Blocks)
    base = operator.base
    most = sum(base.sizes) if isinstance(base, MatrixMap) else base.weight.numel()
    groups = len(operator.inputs) if operator.read.norm > 1.0 else 0
    return most + base.roundings + groups + 2


def _norm(matrix: Tensor) -> float:
    """Bound a norm, cheaply where the matrix is large."""
    if max(matrix.shape, default=0) <= SMALL:
        return spectral_bound(matrix)
    return float(matrix.norm()) * (1 + 1e-6)


def _plus(a: Matrix | None, b: Matrix) -> Matrix:
    if a is None:
        return b
    value = a.value + b.value
    error = sum_up(a.error, b.error, gamma(1) * float(value.norm()) * (1 + 1e-6))
    return Matrix(value, _norm(value), error)


def _times_diagonal(a: Matrix, factors: Tensor) -> Matrix:
    value = a.value * factors
    most = float(factors.abs().max()) if len(factors) else 0.0
    error = sum_up(product_up(most, a.error), gamma(1) * float(value.norm()) * (1 + 1e-6))
    return Matrix(value, _norm(value), error)


def _times(a: Matrix, b: Matrix) -> Matrix:
    value = a.value @ b.value
    rounding = gamma(a.value.shape[1] + 2) * float(a.value.norm()) * float(b.value.norm())
    error = sum_up(
        product_up(a.norm, b.error), product_up(a.error, b.norm), product_up(a.error, b.error),
        rounding * (1 + 1e-6),
    )  # fmt: skip
    return Matrix(value, _norm(value), error)
