"""Rows of a node taken back to the input, through operators exactly and through atoms by lines.

Rounding: with |u| a bound of the norm of a node in the ball and ‖|N|‖ that of the absolute values
of an operator, rows that have gone through it are off by γ ‖R‖ ‖|N|‖ |u| in R · u. These sums are
counted to the rest.
"""

# Shape letters: N samples, K rows, d inputs, n the size of a node.

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import UNIT, gamma
from ..graph import Affine, Elementwise, Graph, Joint
from .adjoint_rounding import lost_by_adjoint
from .perturbation import Ball
from .relax import Lines
from .relaxation import SLACK, Relaxation, norm_up, steepest

__all__ = ["Curve", "Found", "Walk"]


class Curve(NamedTuple):
    """Lines of a function of each element: the best two, and two of one slope."""

    best: Lines
    shared: Lines


class Found(NamedTuple):
    """What a walk ends with: A (N, K, d), the middle and half the width of the rest (N, K)."""

    rows: Tensor
    middle: Tensor
    spread: Tensor
    length: Tensor  # of the vector of the rest (N, 1)


@dataclass
class _Sums:
    shift: Tensor
    spread: Tensor
    error: Tensor
    length: Tensor | None  # of the vector of all rows' remainders (N,), where it is asked for

    def add(self, shift: Tensor, spread: Tensor | float, error: Tensor) -> None:
        self.shift = self.shift + shift
        self.spread = self.spread + spread
        self.error = self.error + error + 4 * UNIT * self.shift.abs()


@dataclass
class Walk:
    """What rows are taken through.

    Attributes:
        graph: As recorded.
        ball: Of the inputs.
        atoms: Lines and relaxations by number.
        size: Bounds of the norms of nodes (N,) by number.
    """

    graph: Graph
    ball: Ball
    atoms: dict[int, Curve | Relaxation] = field(default_factory=dict)
    size: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, number: int, rows: Tensor, *, shared: bool, length: bool = False) -> Found:
        """Take rows of a node back to the input.

        Args:
            number: Of the node.
            rows: (N or 1, K, n).
            shared: Whether to take lines of one slope, so that both sides are bounded.
            length: Whether to bound the length of the rest of all rows together too.
        """
        digits = gamma(2 * len(self.graph.nodes) + 8)
        waiting = {number: (rows, norm_up(rows))}
        zero = rows.new_zeros(len(self.ball.centre), rows.shape[1])
        sums = _Sums(zero, zero, zero, zero[:, 0] if length else None)
        for at in range(number, -1, -1):
            if at not in waiting:
                continue
            own, size = waiting.pop(at)
            node = self.graph.nodes[at]
            # Sums of several parts have been rounded.
            sums.error = sums.error + digits * size * self.size[at][:, None]
            if isinstance(node, Affine):
                self._through(node, own, size, waiting, sums)
            elif isinstance(node, Elementwise):
                _put(waiting, node.source, *self._bent(at, own, size, shared, sums))
            elif isinstance(node, Joint):
                relaxation = self.atoms[at]
                assert isinstance(relaxation, Relaxation)
                pulled = relaxation.pull(own, size)
                sums.add(pulled.shift, pulled.spread, pulled.error)
                if sums.length is not None:
                    sums.length = sums.length + relaxation.stretch(own, pulled)
                _put(waiting, node.source, pulled.rows, pulled.length)
            else:
                _put(waiting, -1, own, size)
        size = self.ball.centre.shape[1]
        found = rows.new_zeros(1, rows.shape[1], size)
        if -1 in waiting:
            found = waiting[-1][0]
        found = found.expand(len(self.ball.centre), -1, -1)
        value = (found @ self.ball.centre[:, :, None])[..., 0]
        error = gamma(2 * size + 16) * norm_up(found) * self.size[0][:, None]
        sums.add(value, 0.0, error)
        lost = sums.error * (1 + 1e-6) + 8 * UNIT * sums.shift.abs()
        rest = sums.spread * SLACK + lost
        stretch = rest.norm(dim=1) if sums.length is None else sums.length + lost.norm(dim=1)
        return Found(found, sums.shift, rest, stretch[:, None] * SLACK)

    def _through(
        self,
        node: Affine,
        rows: Tensor,
        length: Tensor,
        waiting: dict[int, tuple[Tensor, Tensor]],
        sums: _Sums,
    ) -> None:
        """Take rows of bounded lengths through an affine node."""
        if node.constant is not None:
            size = float(node.constant.norm()) * SLACK
            sums.add(rows @ node.constant, 0.0, gamma(2 * node.size + 8) * length * size)
        for source, operator in node.terms:
            part = operator.adjoint(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
            lost = lost_by_adjoint(operator)
            if lost > 0.0:
                sums.error = sums.error + lost * length * self.size[source][:, None]
            # What loses nothing moves rows as they are.
            _put(waiting, source, part, length if lost == 0.0 else None)

    def _bent(
        self, number: int, rows: Tensor, length: Tensor, shared: bool, sums: _Sums
    ) -> tuple[Tensor, Tensor]:
        """Take rows of bounded lengths through a function of each element."""
        curve = self.atoms[number]
        assert isinstance(curve, Curve)
        given = curve.shared if shared else curve.best
        steep = torch.maximum(given.low_slope.abs(), given.high_slope.abs()).amax(1)
        error = self._digits(given, length, steep, number)
        through = length * steep[:, None] * SLACK
        if shared:
            a, b, _, top = curve.shared
            half = (top - b) / 2
            found = rows * a[:, None]
            spread = (rows.abs() @ half[:, :, None])[..., 0] * SLACK
            shift = (rows @ (b + half)[:, :, None])[..., 0]
            sums.add(shift, spread, error)
            if sums.length is not None:
                whole = steepest(rows) * half.norm(dim=1) * SLACK
                sums.length = sums.length + torch.minimum(spread.norm(dim=1) * SLACK, whole)
            return found, through
        a, b, other, top = (part[:, None] for part in curve.best)
        up = rows > 0
        shift = (rows * torch.where(up, b, top)).sum(2)
        sums.add(shift, 0.0, error)
        return rows * torch.where(up, a, other), through

    def _digits(self, given: Lines, length: Tensor, steep: Tensor, number: int) -> Tensor:
        node = self.graph.nodes[number]
        most = torch.maximum(given.low.abs(), given.high.abs()).norm(dim=1) * SLACK
        lost = gamma(2 * node.size + 16) * most + gamma(4) * steep * self.size[node.sources[0]]
        return length * lost[:, None]


def _put(
    waiting: dict[int, tuple[Tensor, Tensor]],
    number: int,
    rows: Tensor,
    length: Tensor | None = None,
) -> None:
    """Add rows to those that wait at a node, with a bound of their lengths (N or 1, K)."""
    if number in waiting:
        rows, length = waiting[number][0] + rows, None
    waiting[number] = rows, norm_up(rows) if length is None else length
