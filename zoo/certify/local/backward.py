"""Bounds of rows of a node for all inputs of a ball, by walking back from it to the input.

    R · v(x)  ≥  min over the ball of (A x + c) − w,      the minimum over δ of A δ is −ε ‖A‖*

A walk takes rows through affine nodes exactly and through atoms by lines (`relax`, `joint`) that
hold on the reach of what the atom reads. Reaches are bounded first, node after node, each by a walk
of its own from its unit rows with one slope for both lines; a node of more than `widest` values
gets its value in the middle and the norms of the operators in front of it.

Rounding: with |u| a bound of the norm of a node in the ball and ‖|N|‖ that of the absolute values
of an operator, rows that have gone through it are off by γ ‖R‖ ‖|N|‖ |u| in R · u. These sums are
taken off every bound.

Sources: Zhang et al. 2018, arXiv:1811.00866 (CROWN); Xu et al. 2020, arXiv:2002.12920 (on graphs).
Differs from them: normalisation by a Taylor formula, bounds of the rounding.
"""

# Shape letters: N samples, K rows, d inputs, n the size of a node.

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import UNIT, gamma, product_up, sum_up
from ..bounds.paths import slope
from ..graph import Affine, Elementwise, Graph, Joint
from ..maps import MatrixMap
from ..operators import Blocks, Operator
from ..projected_ascent import Norm
from .joint import Reach, Relaxation, relaxed
from .relax import Lines, lines

__all__ = ["Ball", "Walk"]

SLACK = 1 + 1e-9  # above the rounding of a sum of squares
ENTRIES = 2**21  # of the rows of one walk
WIDEST = 2048


class Ball(NamedTuple):
    """Points within a radius of each sample.

    Attributes:
        centre: (N, d) in float64.
        radius: (N,).
        norm: `l2` or `linf`.
    """

    centre: Tensor
    radius: Tensor
    norm: Norm

    @property
    def length(self) -> Tensor:
        """The largest L2 norm of a difference to the centre (N,)."""
        corner = math.sqrt(self.centre.shape[1]) if self.norm == "linf" else 1.0
        return self.radius * (corner * SLACK)

    def width(self, rows: Tensor) -> Tensor:
        """Return the largest product of rows (…, N, K, d) with a difference (N, K)."""
        dual = rows.norm(dim=2) if self.norm == "l2" else rows.abs().sum(2)
        return dual * (self.radius[:, None] * SLACK)


class _Curve(NamedTuple):
    """Lines of a function of each element: the best two, and two of one slope."""

    best: Lines
    shared: Lines


class _Found(NamedTuple):
    """What a walk ends with: A (N, K, d), the middle and half the width of the rest (N, K)."""

    rows: Tensor
    middle: Tensor
    spread: Tensor


@dataclass
class _Sums:
    shift: Tensor
    spread: Tensor
    error: Tensor

    def add(self, shift: Tensor, spread: Tensor | float, error: Tensor) -> None:
        self.shift = self.shift + shift
        self.spread = self.spread + spread
        self.error = self.error + error + 4 * UNIT * self.shift.abs()


class Walk:
    """The reaches of all nodes of a graph, and bounds of rows.

    Args:
        graph: As recorded.
        ball: Of the inputs.
        target: The number of the node that rows are to be bounded of; None is the output.
        widest: Values of a node up to which its reach is bounded by a walk.

    Attributes:
        sound: Which samples have finite reaches everywhere (N,).
        error: Of the float64 evaluation of a node at any point of the ball (N,), by its number.
    """

    def __init__(
        self,
        graph: Graph,
        ball: Ball,
        *,
        target: int | None = None,
        widest: int = WIDEST,
    ) -> None:
        """Bound all reaches, in order."""
        self.graph, self.ball, self.widest = graph, ball, widest
        self.target = graph.output if target is None else target
        self.sound = torch.ones(len(ball.centre), dtype=torch.bool)
        self.reaches: dict[int, Reach] = {}
        self.atoms: dict[int, _Curve | Relaxation] = {}
        self.size: dict[int, Tensor] = {}
        self.moved: dict[int, Tensor] = {}
        self.error: dict[int, Tensor] = {}
        with torch.no_grad():
            self.values = graph.values(ball.centre)
            for number in self._needed():
                self._add(number)

    def lower(self, rows: Tensor) -> Tensor:
        """Return lower bounds of rows (N or 1, K, n) of the target (N, K); −∞ if there are none.

        They hold for the function and for its evaluation in float64.
        """
        with torch.no_grad():
            best = torch.maximum(*(self._lower(rows, shared) for shared in (False, True)))
            best = best - _length(rows) * self.error[self.target][:, None]
        best = best.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        return torch.where(self.sound[:, None], best, -torch.inf)

    def _lower(self, rows: Tensor, shared: bool) -> Tensor:
        found = self._walk(self.target, rows, shared)
        away = self.ball.width(found.rows) + found.spread
        return found.middle - away - 4 * UNIT * (found.middle.abs() + away)

    def _needed(self) -> list[int]:
        wanted = {self.target}
        for node in reversed(self.graph.nodes[: self.target + 1]):
            if node.number in wanted:
                wanted |= set(node.sources)
        return sorted(wanted)

    def _add(self, number: int) -> None:
        """Relax one node, and bound its norm, its way from the middle and its evaluation."""
        node = self.graph.nodes[number]
        if isinstance(node, Affine):
            self._affine(node)
            return
        if not isinstance(node, Elementwise | Joint):
            self.size[number] = self.ball.centre.norm(dim=1) * SLACK + self.ball.length
            self.moved[number], self.error[number] = self.ball.length, 0 * self.ball.length
            return
        reach = self.reach(node.source)
        if isinstance(node, Elementwise):
            best = lines(node, reach.low, reach.high)
            shared = lines(node, reach.low, reach.high, shared=True)
            self.atoms[number] = _Curve(best, shared)
            self.size[number] = _largest(shared, reach)
            steepest = self.size[number].new_full((), slope(node))
            most = max(1.0, slope(node))
        else:
            relaxation = relaxed(node, reach, self.error[node.source])
            self.atoms[number] = relaxation
            self.size[number], steepest = relaxation.size, relaxation.steepest
            most = max(1.0, node.lipschitz)
        steepest = steepest * SLACK
        self.moved[number] = self.moved[node.source] * steepest
        lost = node.rounding * (most * self.size[node.source] + self.size[number])
        self.error[number] = self.error[node.source] * steepest + lost * SLACK

    def _affine(self, node: Affine) -> None:
        zero = torch.zeros(len(self.sound), dtype=torch.float64)
        constant = 0.0 if node.constant is None else float(node.constant.norm()) * SLACK
        size, moved, error = zero + constant, zero, zero
        terms = 2 * len(node.terms) + 16
        for source, op in node.terms:
            size = size + self.size[source] * op.loose
            moved = moved + self.moved[source] * op.norm
            digits = gamma(2 * op.roundings + terms) * op.loose + _inexact(op)
            error = error + self.error[source] * op.norm + digits * self.size[source]
        error = error + gamma(terms) * (constant + size)
        self.size[node.number], self.moved[node.number] = size * SLACK, moved * SLACK
        self.error[node.number] = error * SLACK

    def reach(self, number: int) -> Reach:
        """Return where a node may be."""
        if number not in self.reaches:
            found = self._by_rows(number)
            sound = found.low.isfinite().all(1) & found.high.isfinite().all(1)
            sound &= found.length.isfinite() & (self.size[number].isfinite())
            self.sound &= sound
            found = Reach(*(_where(sound, part) for part in found))
            self.reaches[number] = found
            self.size[number] = torch.minimum(_where(sound, self.size[number]), found.size)
            self.moved[number] = torch.minimum(
                _where(sound, self.moved[number]), 2 * found.length
            )
        return self.reaches[number]

    def _by_rows(self, number: int) -> Reach:
        size, n = self.graph.nodes[number].size, len(self.sound)
        if size > self.widest:
            away = (self.moved[number] + self.error[number]) * SLACK
            value = self.values[number]
            slack = away[:, None] + 4 * UNIT * value.abs()
            return Reach(value - slack, value + slack, slack.norm(dim=1) * SLACK)
        eye = torch.eye(size, dtype=torch.float64)[None]
        wide = max(self.graph.nodes[k].size for k in range(number + 1))
        parts = [
            self._walk(number, rows, True)
            for rows in eye.split(max(1, ENTRIES // (max(1, wide) * n)), dim=1)
        ]
        found = _Found(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
        half = self.ball.width(found.rows) + found.spread
        half = half + 4 * UNIT * (found.middle.abs() + half)
        low, high = found.middle - half, found.middle + half
        middle = low + (high - low) / 2
        off = (middle - found.middle).norm(dim=1)
        # All at once the values move less than each may alone.
        straight = self.ball.length * _steepest(found.rows)
        length = (straight + found.spread.norm(dim=1) + off) * SLACK
        box = (high - low).norm(dim=1) * (0.5 * SLACK)
        return Reach(low, high, torch.minimum(length, box))

    def _walk(self, number: int, rows: Tensor, shared: bool) -> _Found:
        """Take rows (N or 1, K, n) of a node back to the input."""
        waiting = {number: rows}
        zero = rows.new_zeros(len(self.sound), rows.shape[1])
        sums = _Sums(zero, zero, zero)
        for at in range(number, -1, -1):
            if at not in waiting:
                continue
            own = waiting.pop(at)
            node = self.graph.nodes[at]
            # Sums of several parts have been rounded.
            sums.add(zero, 0.0, gamma(8) * _length(own) * self.size[at][:, None])
            if isinstance(node, Affine):
                self._through(node, own, waiting, sums)
            elif isinstance(node, Elementwise):
                _put(waiting, node.source, self._bent(at, own, shared, sums))
            elif isinstance(node, Joint):
                relaxation = self.atoms[at]
                assert isinstance(relaxation, Relaxation)
                pulled = relaxation.pull(own)
                sums.add(pulled.shift, pulled.spread, pulled.error)
                _put(waiting, node.source, pulled.rows)
            else:
                _put(waiting, -1, own)
        size = self.ball.centre.shape[1]
        found = waiting.get(-1, rows.new_zeros(1, rows.shape[1], size))
        found = found.expand(len(self.sound), -1, -1)
        value = (found @ self.ball.centre[:, :, None])[..., 0]
        error = gamma(2 * size + 16) * _length(found) * self.size[0][:, None]
        sums.add(value, 0.0, error)
        rest = sums.spread * SLACK + sums.error * (1 + 1e-6) + 8 * UNIT * sums.shift.abs()
        return _Found(found, sums.shift, rest)

    def _through(
        self, node: Affine, rows: Tensor, waiting: dict[int, Tensor], sums: _Sums
    ) -> None:
        """Take rows through an affine node."""
        length = _length(rows)
        if node.constant is not None:
            size = float(node.constant.norm()) * SLACK
            sums.add(rows @ node.constant, 0.0, gamma(2 * node.size + 8) * length * size)
        for source, operator in node.terms:
            part = operator.adjoint(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
            lost = _lost(operator)
            if lost > 0.0:
                sums.error = sums.error + lost * length * self.size[source][:, None]
            _put(waiting, source, part)

    def _bent(self, number: int, rows: Tensor, shared: bool, sums: _Sums) -> Tensor:
        """Take rows through a function of each element."""
        curve = self.atoms[number]
        assert isinstance(curve, _Curve)
        if shared:
            a, b, _, top = curve.shared
            half = (top - b) / 2
            found = rows * a[:, None]
            sums.add(
                (rows @ (b + half)[:, :, None])[..., 0],
                (rows.abs() @ half[:, :, None])[..., 0] * SLACK,
                self._digits(rows, curve.shared, found, number),
            )
            return found
        a, b, steep, top = (part[:, None] for part in curve.best)
        up = rows > 0
        found = rows * torch.where(up, a, steep)
        shift = (rows * torch.where(up, b, top)).sum(2)
        sums.add(shift, 0.0, self._digits(rows, curve.best, found, number))
        return found

    def _digits(self, rows: Tensor, given: Lines, found: Tensor, number: int) -> Tensor:
        source = self.graph.nodes[number].sources[0]
        most = torch.maximum(given.low.abs(), given.high.abs()).norm(dim=1) * SLACK
        error = gamma(2 * rows.shape[2] + 16) * _length(rows) * most[:, None]
        return error + gamma(4) * _length(found) * self.size[source][:, None]


def _lost(operator: Operator) -> float:
    """Bound what the adjoint loses by rounding, for rows and values of length 1."""
    exact = operator.roundings == 0 and getattr(operator, "identity", False)
    if exact:
        return 0.0
    digits = gamma(2 * operator.rows + 2 * operator.roundings + 16)
    return sum_up(product_up(digits, operator.loose), _inexact(operator))


def _inexact(operator: Operator) -> float:
    """Bound the norm of what an operator differs by from the one that is meant."""
    if isinstance(operator, Blocks) and isinstance(operator.base, MatrixMap):
        return product_up(operator.base.error, operator.read.norm)
    return 0.0


def _steepest(rows: Tensor) -> Tensor:
    """Bound the spectral norms of matrices (N, K, d), by ‖G⁸‖^(1/8) of the Gram matrix G."""
    gram = rows @ rows.mT if rows.shape[1] < rows.shape[2] else rows.mT @ rows
    whole = rows.flatten(1).norm(dim=1)
    scale = torch.where(whole > 0, whole, 1.0)
    power = gram / (scale * scale)[:, None, None]
    for _ in range(3):
        power = power @ power
    norm = power.flatten(1).norm(dim=1) + gamma(64 * (rows.shape[1] + rows.shape[2]) + 64)
    return torch.minimum(norm ** (1 / 16) * (1 + 1e-9), torch.ones_like(norm) * SLACK) * scale


def _largest(found: Lines, reach: Reach) -> Tensor:
    """Bound the norm of s, which is between its lines."""
    a, b, steep, top = found
    ends = torch.stack([
        a * reach.low + b, a * reach.high + b,
        steep * reach.low + top, steep * reach.high + top,
    ])  # fmt: skip
    return ends.abs().amax(0).norm(dim=1) * (1 + 1e-6)


def _put(waiting: dict[int, Tensor], number: int, rows: Tensor) -> None:
    waiting[number] = waiting[number] + rows if number in waiting else rows


def _length(rows: Tensor) -> Tensor:
    return rows.norm(dim=2) * SLACK


def _where(sound: Tensor, part: Tensor) -> Tensor:
    return torch.where(sound.view(-1, *[1] * (part.dim() - 1)), part, 0.0)
