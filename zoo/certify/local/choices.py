"""Choices among values: maximum, minimum, max pool, sort.

They are monotone in each value: between the choice of all lower ends and that of all upper ends,
and equal to one value where the others cannot reach it. In between, the larger of one value t and
the rest has the secant above and a parallel of it below.
"""

# Shape letters: N samples, K rows, T groups, I and O inputs and outputs of a group.

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma
from ..graph import Joint
from .relaxation import SLACK, Pulled, Reach, Relaxation, norm_up, value

__all__ = ["CHOICES", "Choice"]

LARGEST = {"aten.amax", "aten.maximum", "aten.max"}
SMALLEST = {"aten.amin", "aten.minimum", "aten.min"}
POOLS = {f"aten.{name}" for d in (1, 2, 3) for name in (
    f"max_pool{d}d", f"max_pool{d}d_with_indices", f"adaptive_max_pool{d}d",
)} | {"aten.mkldnn_max_pool2d"}  # fmt: skip
CHOICES = LARGEST | SMALLEST | POOLS | {"aten.sort"}


class Choice(Relaxation):
    """s_o = k u_i + an interval, with the i that is chosen in the middle of the reach."""

    def __init__(self, node: Joint, reach: Reach) -> None:
        """Find what is chosen, and what may be."""
        self.inputs = reach.low.shape[1]
        self.steepest = torch.full_like(reach.length, node.lipschitz)
        bottom, top = value(node, reach.low), value(node, reach.high)
        groups = (node.groups, -1)
        # A choice commutes with every monotone map: ranks tell which value is chosen.
        order = reach.middle.unflatten(1, groups).argsort(2)
        places = torch.arange(order.shape[2]).expand_as(order)
        ranks = torch.empty_like(order).scatter_(2, order, places)
        chosen = value(node, ranks.double().flatten(1)).unflatten(1, groups).long()
        offset = torch.arange(node.groups)[:, None] * order.shape[2]
        self.index = (order.gather(2, chosen) + offset).flatten(1)
        low, high = reach.low.gather(1, self.index), reach.high.gather(1, self.index)
        if node.kind in SMALLEST:
            rest = _without(node, reach.low, self.index, torch.inf)
            found = _larger(-high, -low, -rest, -top, -bottom)
            self.slope, self.low, self.high = found[0], -found[2], -found[1]
        elif node.kind in LARGEST | POOLS:
            # Where windows share values, one that is left out may be chosen elsewhere.
            shared = node.kind in POOLS and node.lipschitz > SLACK
            rest = top if shared else _without(node, reach.high, self.index, -torch.inf)
            self.slope, self.low, self.high = _larger(low, high, rest, bottom, top)
        else:
            alone = _sorted_apart(reach, order).gather(2, chosen).flatten(1)
            self.slope = alone.to(low)
            self.low = torch.where(alone, 0.0, bottom)
            self.high = torch.where(alone, 0.0, top)
        self.size = torch.maximum(bottom.abs(), top.abs()).norm(dim=1) * SLACK
        self.taken = torch.maximum(low.abs(), high.abs()).norm(dim=1) * SLACK

    def pull(self, rows: Tensor, length: Tensor) -> Pulled:
        """Take rows on the outputs to rows on the inputs."""
        scaled = rows * self.slope[:, None]
        back = scaled.new_zeros(*scaled.shape[:2], self.inputs)
        back.scatter_add_(2, self.index[:, None].expand_as(scaled), scaled)
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        shift = (rows @ middle[:, :, None])[..., 0]
        spread = (rows.abs() @ half[:, :, None])[..., 0] * SLACK
        seen = self.taken + 2 * norm_up(torch.maximum(self.low.abs(), self.high.abs()))
        error = gamma(2 * rows.shape[2] + 16) * length * seen[:, None]
        return Pulled(back, norm_up(back), shift, spread, error)


def _without(node: Joint, values: Tensor, index: Tensor, instead: float) -> Tensor:
    """Return what would be chosen if the chosen values were not there."""
    return value(node, values.scatter(1, index, instead))


def _larger(
    low: Tensor, high: Tensor, rest: Tensor, bottom: Tensor, top: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lines of one slope of the larger of t and the others.

    max(t, bottom) ≤ s ≤ min(max(t, rest), top) for t in [low, high].
    """
    width = torch.where(high > low, high - low, 1.0)
    start, end = torch.maximum(low, rest), torch.maximum(high, rest)
    k = torch.where(high > low, (end - start) / width, 0.0).clamp(0.0, 1.0)
    alone = rest <= low
    k = torch.where(alone, 1.0, k)
    bend = torch.maximum(torch.minimum(bottom, high), low)
    lost = gamma(16) * (low.abs() + high.abs() + bottom.abs() + end.abs())
    under = torch.maximum(bend, bottom) - k * bend - lost
    over = torch.maximum(start - k * low, end - k * high) + lost
    flat = ~alone & (over - under >= top - bottom)
    k = torch.where(flat, 0.0, k)
    under, over = torch.where(flat, bottom, under), torch.where(flat, top, over)
    return k, torch.where(alone, 0.0, under), torch.where(alone, 0.0, over)


def _sorted_apart(reach: Reach, order: Tensor) -> Tensor:
    """Whether each value keeps its place in the order of the middles (N, T, I)."""
    groups = order.shape[1:]
    low = reach.low.unflatten(1, groups).gather(2, order)
    high = reach.high.unflatten(1, groups).gather(2, order)
    far = torch.full_like(low[..., :1], torch.inf)
    before = torch.cat([-far, high.cummax(2).values[..., :-1]], 2)
    behind = torch.cat([low.flip(2).cummin(2).values.flip(2)[..., 1:], far], 2)
    return (before <= low) & (behind >= high)
