"""Layer, group and RMS norms around a point.

x -> γ x/σ(x) + β, σ² = ‖x‖²/n + ε, of x = u or u − mean(u), by Taylor's formula at the middle u₀ of
the reach, with the remainder ½ sup ‖D²f‖ ‖v‖² and ‖D²f[v, v]‖ ≤ (2/√3) √n ‖v‖²/r², r² = nσ².

    With r² = ‖x‖² + nε, ρ = ‖x‖/r and v of length 1 = a along x and b across, D²f[v, v] = √n ρ/r²
    (−(3a²(1 − ρ²) + b²), −2ab). With t = a² and q = 1 − ρ² its square is, over n/r⁴,
    (1 − q)(1 + (2 + 6q) t + ((1 − 3q)² − 4) t²): at its best t = 1/(3(1 − q)) that is 4/3, and for
    q > 2/3, where t = 1 is best, it is 9 q² (1 − q) ≤ 4/3.
"""

# Shape letters: N samples, K rows, T groups, I values of a group, n their number.

import math

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma
from ..graph import Joint
from .relaxation import SLACK, Pulled, Reach, Relaxation, norm_up, steepest, value

__all__ = ["Normalisation", "normalised"]


class Normalisation(Relaxation):
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
        self.remainder = torch.minimum(square, straight) * SLACK
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

    def pull(self, rows: Tensor, length: Tensor) -> Pulled:
        """Take rows on the outputs to rows on the inputs."""
        back = rows.unflatten(2, self.shape) * self.gain  # (N, K, T, I)
        seen = norm_up(back)
        if self.centred:
            back = back - back.mean(3, keepdim=True)
        unit = self.unit[:, None]
        back = (back - (back * unit).sum(3, keepdim=True) * unit) * self.scale[:, None, :, None]
        back = back.flatten(2)
        shift = (rows @ self.value[:, :, None] - back @ self.middle[:, :, None])[..., 0]
        spread = (seen * self.remainder[:, None]).sum(2) * SLACK
        error = (seen * self.linear[:, None]).sum(2) * SLACK + length * self.lost[:, None]
        digits = gamma(2 * rows.shape[2] + 16)
        # J is no longer than 1/σ.
        found = norm_up(seen * self.scale[:, None]) * SLACK
        error = error + digits * (
            length * norm_up(self.value)[:, None] + found * norm_up(self.middle)[:, None]
        )
        return Pulled(back, found, shift, spread, error)

    def stretch(self, rows: Tensor, pulled: Pulled) -> Tensor:
        """Bound the length of R times the remainder."""
        scaled = (rows.unflatten(2, self.shape) * self.gain).flatten(2)
        whole = steepest(scaled) * norm_up(self.remainder)
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
