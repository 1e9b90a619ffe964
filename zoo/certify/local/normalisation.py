"""Layer, group and RMS norms around a point.

x -> γ f(x) + β, f(x) = √n x/r, r² = ‖x‖² + nε, of x = u or u − mean(u), is replaced by its value and
Jacobian at the middle x₀ of the reach. With p = ‖x₀‖, e = x₀/p and x − x₀ = a e + w, |a| ≤ α and
‖w‖ ≤ β, the remainder is exactly

    √n (p + a)(1/r − 1/r₀) + √n p² a/r₀³     along e, and     √n w (1/r − 1/r₀)     across.

Along e it falls as ‖w‖ grows, by √n (p + α) β²/(2 r̲³) at most with r̲² = (p − α)² + nε, so that most
of it lies in one known direction and on one side. At w = 0, and altogether where α is not known
to be small, Taylor's formula bounds it by ½ sup ‖D²f‖ ‖v‖² with ‖D²f[v, v]‖ ≤ (2/√3) √n ‖v‖²/r²:

    With ρ = ‖x‖/r and v of length 1 = a along x and b across, D²f[v, v] = √n ρ/r² times
    (−(3a²(1 − ρ²) + b²), −2ab). With t = a² and q = 1 − ρ² its square is, over n/r⁴,
    (1 − q)(1 + (2 + 6q) t + ((1 − 3q)² − 4) t²): at its best t = 1/(3(1 − q)) that is 4/3, and for
    q > 2/3, where t = 1 is best, it is 9 q² (1 − q) ≤ 4/3.
"""

# Shape letters: N samples, K rows, T groups, I values of a group, n their number.

import math

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import UNIT, gamma
from ..graph import Joint
from .relaxation import SLACK, Pulled, Reach, Relaxation, Sides, norm_up, steepest, value

__all__ = ["Normalisation", "normalised"]


class Normalisation(Relaxation):
    """s = s₀ + J (u − u₀) + diag(γ) times a remainder."""

    def __init__(
        self,
        node: Joint,
        reach: Reach,
        error: Tensor,
        sides: Sides,
        gain: Tensor,
        eps: float,
        centred: bool,
    ) -> None:
        """Bound the remainder; arguments as in `relaxed` and from `normalised`."""
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
        self.across = torch.minimum(square, straight) * SLACK
        self.direction = x / torch.where(length > 0, length, 1.0)[..., None]
        self.middle_along = self.half_along = torch.zeros_like(length)
        # How far the direction itself is off.
        off = gamma(8 * count + 32) * (1 + most / torch.where(length > 0, length, 1.0))
        seen = self._along(sides) + error[:, None] + off * away + lost
        self._directed(length, r, torch.minimum(seen, away), away, floor, off)
        self.scale = root / r  # 1/σ
        self.unit = x / r[..., None]
        self.value = value(node, self.middle)
        # Centring loses digits where the mean is far larger than the spread.
        q = 1 + most / r
        self.linear = gamma(32 * count + 256) * q * q * self.scale * (away + lost + r)
        self.lost = node.rounding * (max(1.0, node.lipschitz) * reach.size + norm_up(self.value))
        largest = gain.abs().amax(-1) * (root / near) * SLACK
        self.steepest = largest.amax(1).clamp_max(node.lipschitz)
        total = self.value.norm(dim=1) + self.steepest * reach.length
        self.size = (total + self.lost) * SLACK

    def _along(self, sides: Sides) -> Tensor:
        """Bound |e · (u − u₀)| of each group (N, T)."""
        n, t, i = self.direction.shape
        rows = torch.zeros(n, t, t, i, dtype=torch.float64)
        rows[:, torch.arange(t), torch.arange(t)] = self.direction
        low, high = sides(rows.flatten(2))
        here = (rows.flatten(2) @ self.middle[:, :, None])[..., 0]
        digits = gamma(2 * t * i + 8) * norm_up(self.middle)[:, None]
        return torch.maximum(high - here, here - low) + digits

    def _directed(
        self, p: Tensor, r: Tensor, a: Tensor, b: Tensor, floor: float, off: Tensor
    ) -> None:
        """Split the remainder along e and across, where that is less."""
        root = math.sqrt(self.direction.shape[2])
        near = ((p - a).clamp_min(0.0) ** 2 + floor).sqrt() * (1 - 1e-9)
        far = ((p + a) ** 2 + b * b + floor).sqrt() * SLACK
        change = torch.maximum(1 / near - 1 / r, 1 / r - 1 / far) + 8 * UNIT / near
        across = root * b * change * SLACK
        fall = root * (p + a) * torch.minimum(b * b / (2 * near**3), 1 / near) * SLACK
        bend = root * a * a / (math.sqrt(3) * near * near) * SLACK
        half = fall / 2 + bend
        across = across + off * (fall + bend)
        less = (a < p) & (across + half < self.across)
        self.across = torch.where(less, across, self.across)
        self.half_along = torch.where(less, half * SLACK, 0.0)
        self.middle_along = torch.where(less, -fall / 2, 0.0)

    def pull(self, rows: Tensor) -> Pulled:
        """Take rows on the outputs to rows on the inputs."""
        scaled = rows.unflatten(2, self.shape) * self.gain  # (N, K, T, I)
        length = norm_up(scaled)
        back = scaled - scaled.mean(3, keepdim=True) if self.centred else scaled
        unit = self.unit[:, None]
        back = (back - (back * unit).sum(3, keepdim=True) * unit) * self.scale[:, None, :, None]
        back = back.flatten(2)
        shift = (rows @ self.value[:, :, None] - back @ self.middle[:, :, None])[..., 0]
        along = (scaled * self.direction[:, None]).sum(3)
        shift = shift + (along * self.middle_along[:, None]).sum(2)
        spread = length * self.across[:, None] + along.abs() * self.half_along[:, None]
        spread = spread.sum(2) * SLACK
        error = (length * self.linear[:, None]).sum(2) * SLACK
        error = error + norm_up(rows) * self.lost[:, None]
        digits = gamma(4 * rows.shape[2] + 16)
        error = error + digits * (
            norm_up(scaled.flatten(2)) * norm_up(self.half_along - self.middle_along)[:, None]
        )
        error = error + digits * (
            norm_up(rows) * norm_up(self.value)[:, None]
            + norm_up(back) * norm_up(self.middle)[:, None]
        )
        return Pulled(back, shift, spread, error)

    def stretch(self, rows: Tensor, pulled: Pulled) -> Tensor:
        """Bound the length of R times the remainder."""
        scaled = rows.unflatten(2, self.shape) * self.gain
        along = (scaled * self.direction[:, None]).sum(3).abs() * self.half_along[:, None]
        whole = steepest(scaled.flatten(2)) * norm_up(self.across) + along.sum(2).norm(dim=1)
        return torch.minimum(super().stretch(rows, pulled), whole)


def normalised(node: Joint) -> tuple[Tensor, float, bool] | None:
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
