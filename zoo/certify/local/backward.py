"""Bounds of rows of a node for all inputs of a ball, by walking back from it to the input.

    R · v(x)  ≥  min over the ball of (A x + c) − w,      the minimum over δ of A δ is −ε ‖A‖*

A walk takes rows through affine nodes exactly and through atoms by lines (`relax`) or a relaxation
(`joint_relaxation`) that hold on the reach of what the atom reads. Reaches are bounded first, node
after node, each by a walk of its own from its unit rows with one slope for both lines. A node of
more than `widest` values is bounded by its value at the centre and the norms before it.

Sources: Zhang et al. 2018, arXiv:1811.00866 (CROWN); Xu et al. 2020, arXiv:2002.12920 (on graphs).
Differs from them: normalisation by a Taylor formula, bounds of the rounding.
"""

# Shape letters: N samples, K rows, d inputs, n the size of a node.

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import UNIT, gamma
from ..bounds import stepped
from ..bounds.paths import slope
from ..graph import Affine, Elementwise, Graph, Joint
from .adjoint_rounding import inexact
from .joint_relaxation import relaxed
from .perturbation import Ball
from .relax import Lines, lines
from .relaxation import SLACK, Reach, norm_up, steepest
from .walk import Curve, Found, Walk

__all__ = ["WIDEST", "LocalBounds"]

ENTRIES = 2**21  # of the rows of one walk
WIDEST = 2048


class LocalBounds:
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
        self.walk = Walk(graph, ball)
        self.atoms, self.size = self.walk.atoms, self.walk.size
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
            best = best - norm_up(rows) * self.error[self.target][:, None]
        best = best.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        return torch.where(self.sound[:, None], best, -torch.inf)

    def _lower(self, rows: Tensor, shared: bool) -> Tensor:
        found = self.walk(self.target, rows, shared=shared)
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
        reach = self.reach(node.source, joint=isinstance(node, Joint))
        if isinstance(node, Elementwise):
            best = lines(node, reach.low, reach.high)
            shared = lines(node, reach.low, reach.high, shared=True)
            self.atoms[number] = Curve(best, shared)
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
        self.error[number] = self.error[node.source] * steepest + lost * SLACK + stepped(node)

    def _affine(self, node: Affine) -> None:
        zero = torch.zeros(len(self.sound), dtype=torch.float64)
        constant = 0.0 if node.constant is None else float(node.constant.norm()) * SLACK
        size, moved, error = zero + constant, zero, zero
        terms = 2 * len(node.terms) + 16
        for source, op in node.terms:
            size = size + self.size[source] * op.loose
            moved = moved + self.moved[source] * op.norm
            digits = gamma(2 * op.roundings + terms) * op.loose + inexact(op)
            error = error + self.error[source] * op.norm + digits * self.size[source]
        error = error + gamma(terms) * (constant + size)
        self.size[node.number], self.moved[node.number] = size * SLACK, moved * SLACK
        self.error[node.number] = error * SLACK

    def reach(self, number: int, *, joint: bool = False) -> Reach:
        """Return where a node may be; `joint` asks for a better bound of the length."""
        if number not in self.reaches:
            found = self._by_rows(number, joint)
            sound = found.low.isfinite().all(1) & found.high.isfinite().all(1)
            sound &= found.length.isfinite() & (self.size[number].isfinite())
            self.sound &= sound
            found = Reach(*(_where(sound, part) for part in found))
            self.reaches[number] = found
            self.size[number] = torch.minimum(_where(sound, self.size[number]), found.size)
            self.moved[number] = torch.minimum(_where(sound, self.moved[number]), 2 * found.length)
        return self.reaches[number]

    def _by_rows(self, number: int, joint: bool) -> Reach:
        size, n = self.graph.nodes[number].size, len(self.sound)
        if size > self.widest:
            away = (self.moved[number] + self.error[number]) * SLACK
            value = self.values[number]
            slack = away[:, None] + 4 * UNIT * value.abs()
            length = away + 8 * UNIT * value.norm(dim=1)
            return Reach(value - slack, value + slack, length * SLACK)
        eye = torch.eye(size, dtype=torch.float64)[None]
        wide = max(self.graph.nodes[k].size for k in range(number + 1))
        parts = [
            self.walk(number, rows, shared=True, length=joint)
            for rows in eye.split(max(1, ENTRIES // (max(1, wide) * n)), dim=1)
        ]
        found = Found(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
        half = self.ball.width(found.rows) + found.spread
        half = half + 4 * UNIT * (found.middle.abs() + half)
        low, high = found.middle - half, found.middle + half
        middle = low + (high - low) / 2
        off = (middle - found.middle).norm(dim=1)
        box = (high - low).norm(dim=1) * (0.5 * SLACK)
        if not joint:
            return Reach(low, high, box)
        # All at once the values move less than each may alone.
        straight = self.ball.length * steepest(found.rows)
        length = (straight + found.length.norm(dim=1) + off) * SLACK
        return Reach(low, high, torch.minimum(length, box))


def _largest(found: Lines, reach: Reach) -> Tensor:
    """Bound the norm of s, which is between its lines."""
    a, b, steep, top = found
    ends = torch.stack([
        a * reach.low + b, a * reach.high + b,
        steep * reach.low + top, steep * reach.high + top,
    ])  # fmt: skip
    return ends.abs().amax(0).norm(dim=1) * (1 + 1e-6)


def _where(sound: Tensor, part: Tensor) -> Tensor:
    return torch.where(sound.view(-1, *[1] * (part.dim() - 1)), part, 0.0)
