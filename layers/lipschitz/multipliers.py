"""Multipliers for a block that has none, and the Lipschitz constant that they prove.

With P_h(Λ) the part of the hidden layers, the best L² for fixed multipliers is

    λ_max(AᵀA + P_0h P_hh⁻¹ P_h0)                                   (P_hh > 0)

which Adam minimises over log Λ from the closed form X = BᵀB, λ_k = λ_max(X),
X <- λ_k² C_kᵀ (2 λ_k − X)⁻¹ C_k times the best common scale. The search is an estimate; what comes
back is verified.

Sources: Fazlyab et al. 2019, arXiv:1906.04893 (the inequality); Xu and Sivaranjani 2024,
"ECLipsE", arXiv:2404.04375 (the recursion).
Differs from them: residual blocks; first-order search in place of a solver of semidefinite
programs, whose optimum would be no proof either.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .bound import verified_lipschitz, wide_block
from .lmi import LMIBlock

__all__ = ["lmi_lipschitz"]

RATE = 0.15  # of Adam on log Λ
PATIENCE, GAIN = 25, 1e-4  # the search ends where 25 steps gained less than this share of L²


def lmi_lipschitz(
    skip: Tensor,
    inner: Sequence[Tensor],
    taps: Sequence[Tensor | None],
    *,
    steps: int = 250,
    roundings: int = 0,
) -> float:
    """Return a proved Lipschitz constant of a block without multipliers, or infinity.

    Args:
        skip: A (d_y, d_0); zeros for a feed-forward chain.
        inner: C_1 … C_n, as in `LMIBlock`.
        taps: B_1 … B_n, None where a layer does not reach the output.
        steps: Of Adam, at least 0.
        roundings: How many roundings of float64 the weights have gone through already.
    """
    block = LMIBlock(skip, tuple(inner), tuple(taps), tuple(c[:, 0] for c in inner))
    block = wide_block(block)
    search = _Search(block)
    start = torch.cat(closed_form(block)).log()
    best, shift = min((search.square(start + k * math.log(2)), k) for k in range(-4, 5))
    if best == math.inf:
        best, shift = min((search.square(start + k * math.log(2)), k) for k in range(-24, 25))
    if best == math.inf:
        return math.inf
    found = search.descend(start + shift * math.log(2), steps).exp()
    block = block._replace(multipliers=found.split(block.widths[1:]))
    return verified_lipschitz(block, roundings=roundings, inflations=(0.0, 1e-7, 1e-5))


def closed_form(block: LMIBlock) -> tuple[Tensor, ...]:
    """Return the multipliers of the backward recursion, one number for each layer.

    Where a layer reads all before it there is no recursion, and they are ones.
    """
    widths = block.widths
    if any(c.shape[1] != width for c, width in zip(block.inner, widths, strict=False)):
        return tuple(torch.ones(len(c), dtype=c.dtype) for c in block.inner)
    found: list[Tensor] = []
    x = torch.zeros(widths[-1], widths[-1], dtype=block.skip.dtype)
    for c, tap in zip(reversed(block.inner), reversed(block.taps), strict=True):
        if tap is not None:
            x = x + tap.mT @ tap
        multiplier = max(float(torch.linalg.eigvalsh(x)[-1]), 1e-30)
        found.append(x.new_full((len(c),), multiplier))
        rest = 2 * multiplier * torch.eye(len(c), dtype=x.dtype) - x
        x = multiplier**2 * c.mT @ torch.linalg.solve(rest, c)
        x = (x + x.mT) / 2
    return tuple(reversed(found))


class _Search:
    """Minimise the best L² over log Λ.

    With M the matrix that makes z from the signals and G = TᵀT, the hidden rows of P are
    [−G_h0 − Λ M_0, 2Λ − Λ M_h − M_hᵀ Λ − G_hh]. Where u is the top eigenvector and
    w = [u; −P_hh⁻¹ P_h0 u], the envelope theorem gives ∂L²/∂λ_i = 2 w_i (M w)_i − 2 w_i².
    """

    def __init__(self, block: LMIBlock) -> None:
        widths, d = block.widths, block.widths[0]
        starts = [sum(widths[:k]) for k in range(len(widths) + 1)]
        wide = torch.float64
        self.signals = torch.zeros(starts[-1] - d, starts[-1], dtype=wide)
        for k, c in enumerate(block.inner, start=1):
            rows = slice(starts[k] - d, starts[k + 1] - d)
            self.signals[rows, starts[k] - c.shape[1] : starts[k]] = c
        out = [block.skip]
        for width, tap in zip(widths[1:], block.taps, strict=True):
            out.append(torch.zeros(len(block.skip), width, dtype=wide) if tap is None else tap)
        whole = torch.cat(out, dim=1)
        gram = whole.mT @ whole
        self.d, self.corner = d, gram[:d, :d]
        self.side, self.hidden = -gram[d:, :d], -gram[d:, d:]

    def square(self, logs: Tensor) -> float:
        """Return L², or infinity outside the feasible set."""
        return self._at(logs)[0]

    def descend(self, logs: Tensor, steps: int) -> Tensor:
        """Return the best log Λ that Adam visits; it stops where it no longer gains."""
        best, kept = math.inf, logs
        mean, variance = torch.zeros_like(logs), torch.zeros_like(logs)
        history: list[float] = []
        for step in range(steps):
            square, gradient = self._at(logs)
            if square == math.inf:  # outside: go back half way to the best point
                logs = (logs + kept) / 2
                mean.zero_()
                continue
            if square < best:
                best, kept = square, logs.clone()
            history.append(best)
            if len(history) > PATIENCE and history[-PATIENCE] < best * (1 + GAIN):
                break
            mean.lerp_(gradient, 0.1)
            variance.lerp_(gradient.square(), 0.05)
            size = mean / (variance.sqrt() + 1e-30)
            logs = logs - (RATE * (1 - step / steps) ** 2 + 1e-4) * size
        return kept

    def _at(self, logs: Tensor) -> tuple[float, Tensor]:
        multipliers = logs.exp().unsqueeze(1)
        weighted = multipliers * self.signals
        inside = weighted[:, self.d :]
        p = self.hidden - inside - inside.mT
        p.diagonal().add_(2 * multipliers.squeeze(1))
        factor, info = torch.linalg.cholesky_ex(p)
        if int(info):
            return math.inf, logs
        side = self.side - weighted[:, : self.d]
        solved = torch.cholesky_solve(side, factor)
        values, vectors = torch.linalg.eigh(self.corner + side.mT @ solved)
        u = vectors[:, -1]
        w = -(solved @ u)
        moved = self.signals @ torch.cat([u, w])
        return float(values[-1]), 2 * multipliers.squeeze(1) * w * (moved - w)
