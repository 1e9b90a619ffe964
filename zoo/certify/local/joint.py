"""Lines of maps of several values: norms of a row, choices among values, anything with a constant.

A relaxation takes rows R on the outputs s to rows R' on the inputs u, with

    R · s  ∈  R' · u + c ± w        for all u of a reach

Normalisation x -> γ x/σ(x) + β, σ² = ‖x‖²/n + ε, of x = u or u − mean(u): Taylor's formula at the
middle u₀ of the reach, with the remainder ½ sup ‖D²f‖ ‖v‖² and ‖D²f[v, v]‖ ≤ (2/√3) ‖v‖²/(√n σ²).

    With r² = ‖x‖² + nε, ρ = ‖x‖/r and v of length 1 = a along x and b across, D²f[v, v] = √n ρ/r²
    (−(3a²(1 − ρ²) + b²), −2ab). Its square over n/r⁴ is ρ² (1 + (2 + 6q) t + ((1 − 3q)² − 4) t²)
    with t = a² and q = 1 − ρ²: at its best t = 1/(3(1 − q)) it is 4/3, and for q > 2/3, where t = 1
    is best, it is 9 q² (1 − q) ≤ 4/3.

Choices (maximum, minimum, max pool, sort) are monotone in each value: between the choice of all
lower ends and that of all upper ends, and equal to one value where the others cannot reach it.

Any other map stays within its constant times the length of the reach.
"""

# Shape letters: N samples, K rows, T groups, I and O inputs and outputs of a group.

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma
from ..graph import Joint

__all__ = ["Pulled", "Reach", "Relaxation", "relaxed"]

SLACK = 1 + 1e-9  # above the rounding of sums of squares

LARGEST = {"aten.amax", "aten.maximum", "aten.max"}
SMALLEST = {"aten.amin", "aten.minimum", "aten.min"}
POOLS = {f"aten.{name}" for d in (1, 2, 3) for name in (
    f"max_pool{d}d", f"max_pool{d}d_with_indices", f"adaptive_max_pool{d}d",
)} | {"aten.mkldnn_max_pool2d"}  # fmt: skip
CHOICES = LARGEST | SMALLEST | POOLS | {"aten.sort"}


class Reach(NamedTuple):
    """Where a value may be: within a box, and within a length of its middle.

    Attributes:
        low: (N, n).
        high: (N, n).
        length: Of the difference to the middle (low + high)/2 (N,).
    """

    low: Tensor
    high: Tensor
    length: Tensor

    @property
    def middle(self) -> Tensor:
        """(N, n)."""
        return self.low + (self.high - self.low) / 2

    @property
    def size(self) -> Tensor:
        """A bound of the norm (N,)."""
        return torch.maximum(self.low.abs(), self.high.abs()).norm(dim=1) * SLACK


class Pulled(NamedTuple):
    """R' (N, K, n), c (N, K), w (N, K), and what c and w may be off by (N, K)."""

    rows: Tensor
    shift: Tensor
    spread: Tensor
    error: Tensor


class Relaxation:
    """A map replaced by a linear one and a remainder.

    Attributes:
        size: A bound of the norm of s (N,).
        steepest: A Lipschitz constant on the reach (N,).
    """

    size: Tensor
    steepest: Tensor

    def pull(self, rows: Tensor) -> Pulled:
        """Take rows (N or 1, K, T · O) on the outputs to rows on the inputs."""
        raise NotImplementedError


def relaxed(node: Joint, reach: Reach, error: Tensor) -> Relaxation:
    """Return the relaxation of a map on a reach, `error` (N,) about which it is steep at most."""
    norm = _normalised(node)
    if norm is not None:
        return _Norm(node, reach, error, *norm)
    if node.kind in CHOICES:
        return _Choice(node, reach)
    return _Constant(node, reach)


class _Constant(Relaxation):
    """‖s − s₀‖ ≤ L ‖u − u₀‖."""

    def __init__(self, node: Joint, reach: Reach) -> None:
        self.inputs = reach.low.shape[1]
        self.steepest = torch.full_like(reach.length, node.lipschitz)
        self.value = _value(node, reach.middle)
        self.radius = node.lipschitz * reach.length * SLACK
        self.lost = node.rounding * (max(1.0, node.lipschitz) * reach.size + _length(self.value))
        self.size = (_length(self.value) + self.radius + self.lost) * SLACK

    def pull(self, rows: Tensor) -> Pulled:
        length = _length(rows)
        shift = (rows @ self.value[:, :, None])[..., 0]
        error = length * (self.lost + gamma(rows.shape[2] + 8) * _length(self.value))[:, None]
        left = rows.new_zeros(len(shift), rows.shape[1], self.inputs)
        return Pulled(left, shift, length * self.radius[:, None], error)


class _Norm(Relaxation):
    """s = s₀ + J (u − u₀) + diag(γ) times a remainder."""

    def __init__(
        self,
        node: Joint,
        reach: Reach,
        error: Tensor,
        gain: Tensor,
        eps: float,
        centred: bool,
    ) -> None:
        self.shape = (node.groups, -1)
        self.gain, self.centred = gain, centred
        self.middle = reach.middle
        u = self.middle.unflatten(1, self.shape)
        count = u.shape[2]
        x = u - u.mean(2, keepdim=True) if centred else u
        most = reach.size[:, None]
        lost = gamma(4 * count + 16) * (most + 1e-300)
        away = ((reach.high - reach.low) / 2).unflatten(1, self.shape).norm(dim=2)
        away = torch.minimum(away, reach.length[:, None]) * SLACK + lost + error[:, None]
        length = x.norm(dim=2)
        floor = count * eps
        r = (length * length + floor).sqrt()
        near = ((length - away - lost).clamp_min(0.0) ** 2 + floor).sqrt() * (1 - 1e-9)
        root = math.sqrt(count)
        square = root * away * away / (math.sqrt(3) * near * near)
        straight = (root / near + root / r) * away
        self.remainder = torch.minimum(square, straight) * SLACK
        self.scale = root / r  # 1/σ
        self.unit = x / r[..., None]
        self.value = _value(node, self.middle)
        # Centring loses digits where the mean is far larger than the spread.
        q = 1 + most / r
        self.linear = gamma(32 * count + 256) * q * q * self.scale * (away + lost + r)
        self.lost = node.rounding * (max(1.0, node.lipschitz) * reach.size + _length(self.value))
        largest = gain.abs().amax(-1) * (root / near) * SLACK
        self.steepest = largest.amax(1).clamp_max(node.lipschitz)
        total = self.value.norm(dim=1) + self.steepest * reach.length
        self.size = (total + self.lost) * SLACK

    def pull(self, rows: Tensor) -> Pulled:
        scaled = rows.unflatten(2, self.shape) * self.gain  # (N, K, T, I)
        length = _length(scaled)
        back = scaled - scaled.mean(3, keepdim=True) if self.centred else scaled
        unit = self.unit[:, None]
        back = (back - (back * unit).sum(3, keepdim=True) * unit) * self.scale[:, None, :, None]
        back = back.flatten(2)
        shift = (rows @ self.value[:, :, None] - back @ self.middle[:, :, None])[..., 0]
        spread = (length * self.remainder[:, None]).sum(2) * SLACK
        error = (length * self.linear[:, None]).sum(2) * SLACK
        error = error + _length(rows) * self.lost[:, None]
        digits = gamma(2 * rows.shape[2] + 16)
        error = error + digits * (
            _length(rows) * _length(self.value)[:, None]
            + _length(back) * _length(self.middle)[:, None]
        )
        return Pulled(back, shift, spread, error)


class _Choice(Relaxation):
    """s_o = k u_i + an interval, with the i that is chosen in the middle of the reach."""

    def __init__(self, node: Joint, reach: Reach) -> None:
        self.inputs = reach.low.shape[1]
        self.steepest = torch.full_like(reach.length, node.lipschitz)
        bottom, top = _value(node, reach.low), _value(node, reach.high)
        groups = (node.groups, -1)
        # A choice commutes with every monotone map: ranks tell which value is chosen.
        order = reach.middle.unflatten(1, groups).argsort(2)
        places = torch.arange(order.shape[2]).expand_as(order)
        ranks = torch.empty_like(order).scatter_(2, order, places)
        chosen = _value(node, ranks.double().flatten(1)).unflatten(1, groups).long()
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

    def pull(self, rows: Tensor) -> Pulled:
        scaled = rows * self.slope[:, None]
        back = scaled.new_zeros(*scaled.shape[:2], self.inputs)
        back.scatter_add_(2, self.index[:, None].expand_as(scaled), scaled)
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        shift = (rows @ middle[:, :, None])[..., 0]
        spread = (rows.abs() @ half[:, :, None])[..., 0] * SLACK
        seen = self.taken + 2 * _length(torch.maximum(self.low.abs(), self.high.abs()))
        error = gamma(2 * rows.shape[2] + 16) * _length(rows) * seen[:, None]
        return Pulled(back, shift, spread, error)


def _without(node: Joint, values: Tensor, index: Tensor, instead: float) -> Tensor:
    """Return what would be chosen if the chosen values were not there."""
    return _value(node, values.scatter(1, index, instead))


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


def _normalised(node: Joint) -> tuple[Tensor, float, bool] | None:
    """Return the gain (T or 1, I), ε and whether the mean is taken off; None for another map."""
    options = node.parameters
    if node.kind in ("aten.native_layer_norm", "aten._fused_rms_norm") and len(options) == 6:
        _, count, eps, weight, _, centred = options
        gain = torch.ones(int(str(count)), dtype=torch.float64)
    elif node.kind == "aten.native_group_norm" and len(options) == 4:
        _, eps, weight, _ = options
        gain, centred = torch.ones(1, dtype=torch.float64), True
    else:
        return None
    if isinstance(weight, tuple):
        gain = torch.tensor(weight, dtype=torch.float64)
    if node.kind == "aten.native_group_norm":
        gain = gain.repeat_interleave(node.size // len(gain)).view(node.groups, -1)
    return gain, float(str(eps)), bool(centred)


def _value(node: Joint, u: Tensor) -> Tensor:
    return node.function(u.unflatten(1, (node.groups, -1))).flatten(1)


def _length(x: Tensor) -> Tensor:
    return x.norm(dim=-1) * SLACK
