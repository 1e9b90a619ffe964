"""The smallest Lipschitz constant that the matrix inequality proves for a block.

`verified_lipschitz` takes a block as it is deployed, with its multipliers, and returns an L at
which P(L) is proved positive definite in floating point. `lmi_lipschitz` also searches the
multipliers of a block that has none: with P_h(Λ) the part of the hidden layers, the best L² is

    λ_max(AᵀA + P_0h P_hh⁻¹ P_h0)                                   (P_hh > 0)

which Adam minimises over log Λ from the closed form X = BᵀB, λ_k = λ_max(X),
X <- λ_k² C_kᵀ (2 λ_k − X)⁻¹ C_k times the best common scale. The search is an estimate; what comes
back is verified.

Sources: Fazlyab et al. 2019, arXiv:1906.04893 (the inequality); Xu and Sivaranjani 2024,
"ECLipsE", arXiv:2404.04375 (the recursion); Rump 2006, BIT 46 (the proof in floating point).
Differs from them: residual blocks; first-order search in place of a solver of semidefinite
programs, whose optimum would be no proof either.
"""

# Shape letters: N = d_0 + … + d_n, the order of P.

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .lmi import LMIBlock, lmi_matrix
from .norms import (
    UNIT,
    conv_bound,
    frequency_matrices,
    gamma,
    is_positive_definite,
    product_up,
    root_up,
    sum_up,
    up,
)
from .protocol import ShearWeight

__all__ = ["lmi_lipschitz", "shear_lipschitz", "verified_lipschitz", "verify"]

INFLATIONS = (0.0, 2e-8, 5e-8, 1e-7, 1.5e-7, 2e-7, 3e-7, 5e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
LR = 0.15  # of Adam on log Λ
PATIENCE, GAIN = 25, 1e-4  # the search ends where 25 steps gained less than this share of L²


def verify(block: LMIBlock, lipschitz: float, *, roundings: int = 0) -> bool:
    """Prove P(L) > 0 for the weights as stored; False says only that there is no proof.

    Args:
        block: Effective weights and multipliers.
        lipschitz: L > 0.
        roundings: How many roundings of float64 the weights have gone through already.
    """
    out = [block.skip, *(t for t in block.taps if t is not None)]
    square = sum(_square(t) for t in out)
    inner = sum(
        math.sqrt(_square(m.unsqueeze(-1) * c))
        for c, m in zip(block.inner, block.multipliers, strict=True)
    )
    diagonal = lipschitz**2 * math.sqrt(block.widths[0])
    diagonal += 2 * sum(math.sqrt(_square(m.unsqueeze(-1))) for m in block.multipliers)
    error = gamma(4 * block.skip.shape[-2] + 2 * roundings + 16) * square
    error += gamma(roundings + 8) * (2 * inner + diagonal)
    return is_positive_definite(lmi_matrix(block, lipschitz), up(1.01 * error))


def verified_lipschitz(
    block: LMIBlock,
    *,
    roundings: int = 0,
    inflations: Sequence[float] = INFLATIONS,
) -> float:
    """Return the smallest L found that is proved for a block, or infinity.

    Multipliers are inflated, Λ_k <- (1 + δ)^(n−k+1) Λ_k, since those of a block on the boundary of
    the inequality leave no room for the rounding of its weights.

    Args:
        block: Effective weights and multipliers, in any float type, taken exactly.
        roundings: As in `verify`.
        inflations: The δ to try.
    """
    wide, n = _wide_block(block), len(block.inner)
    for widest in (1e-6, 1.0):  # a little slack with more inflation first
        best = math.inf
        for inflation in inflations:
            scaled = tuple(
                _exact(m * (1 + inflation) ** (n - k)) for k, m in enumerate(wide.multipliers)
            )
            found, slack = _proved(wide._replace(multipliers=scaled), best, widest, roundings)
            if found < best:
                best = found
            elif best < math.inf:
                break  # more inflation costs more than it gives
            if slack <= 1e-8:
                break  # these multipliers leave room enough
        if best < math.inf:
            return best
    return math.inf


def _proved(block: LMIBlock, best: float, widest: float, roundings: int) -> tuple[float, float]:
    """Return an L below `best` that a block's multipliers prove, and its excess; or infinities."""
    square = _least_square(block)
    if square is None:
        return math.inf, math.inf
    # A constant block has L = 0, and any positive number will do.
    candidate, slack = math.sqrt(max(square, 0.0)) or 1e-150, 1e-12
    while candidate * (1 + slack) < best and slack <= widest:
        if verify(block, candidate * (1 + slack), roundings=roundings):
            return candidate * (1 + slack), slack
        slack *= 4
    return math.inf, math.inf


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
        roundings: As in `verify`.
    """
    block = LMIBlock(skip, tuple(inner), tuple(taps), tuple(c[:, 0] for c in inner))
    block = _wide_block(block)
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


def shear_lipschitz(weight: ShearWeight, size: Sequence[int]) -> float:
    """Return a proved Lipschitz constant of x -> a x + Dᵀ σ(C x) with zero-padded convolutions.

    With R = Λ C + a D and 2Λ − D Dᵀ ≥ m > 0 the inequality holds from L² = a² + ‖R‖²/m on. Both are
    read off the frequencies of a grid on which the circular maps contain the zero-padded ones.

    Args:
        weight: The block's effective weights.
        size: Height and width of the image.
    """
    inner, outer = _wide(weight.inner), _wide(weight.outer)
    a, best = abs(weight.skip), math.inf
    for inflation in INFLATIONS:
        multipliers = _exact(_wide(weight.multipliers) * (1 + inflation))
        margin = _shear_margin(outer, multipliers, size)
        if margin <= 0.0:
            continue
        gap = multipliers.view(-1, 1, 1, 1) * inner + weight.skip * outer
        # Two products and a sum, which may cancel: bounded by the parts.
        parts = conv_bound((multipliers.view(-1, 1, 1, 1) * inner).abs(), size)
        parts = sum_up(parts, product_up(a, conv_bound(outer.abs(), size)))
        norm = sum_up(conv_bound(gap, size), product_up(gamma(8), parts))
        best = min(best, root_up(sum_up(up(a * a), up(up(norm * norm) / margin))))
    return best


def _shear_margin(outer: Tensor, multipliers: Tensor, size: Sequence[int]) -> float:
    """Return a proved m with 2Λ − D Dᵀ ≥ m at every frequency, or 0."""
    taps = outer.shape[2:]
    grid = [n + k - 1 for n, k in zip(size, taps, strict=True)]
    square = 0.0
    batches = []
    for d in frequency_matrices(outer.unsqueeze(0), grid, (1, 1), (1, 1)):
        d = d.squeeze(1)
        square = max(square, float(d.abs().square().sum((-2, -1)).max()))
        batches.append(torch.diag(2 * multipliers).to(d) - d @ d.mH)
    spread = outer.abs().flatten(2).sum(2).square().sum().item()
    count = math.prod(taps)
    error = gamma(4 * outer.shape[1] + 16) * square * 1.01
    error += 2.02 * gamma(4 * count + 68) * spread  # of D D^H, from the error of D
    error += 8 * UNIT * (2 * float(multipliers.max()) + square)
    least = min(float(torch.linalg.eigvalsh(p)[..., 0].min()) for p in batches)
    share = 1 - 1e-6
    while share > 1e-3:
        margin = share * least
        if margin <= 0.0:
            return 0.0
        shifted = (p - margin * torch.eye(p.shape[-1], dtype=p.dtype) for p in batches)
        if all(is_positive_definite(p, up(error + 4 * UNIT * margin)) for p in shifted):
            return math.nextafter(margin, 0.0)
        share -= (1 - share) + 1e-6
    return 0.0


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
            logs = logs - (LR * (1 - step / steps) ** 2 + 1e-4) * size
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


def _least_square(block: LMIBlock) -> float | None:
    """Return the smallest L² for the block's multipliers, in float64, or None if there is none."""
    d = block.widths[0]
    p = lmi_matrix(block, 1.0)
    hidden, info = torch.linalg.cholesky_ex(p[..., d:, d:])
    if bool(info.any()):
        return None
    half = torch.linalg.solve_triangular(hidden, p[..., d:, :d], upper=False)
    eye = torch.eye(d, dtype=p.dtype)
    # −Schur complement of P(L) at L = 0.
    schur = eye - p[..., :d, :d] + half.mH @ half
    return float(torch.linalg.eigvalsh(schur)[..., -1].max())


def _wide_block(block: LMIBlock) -> LMIBlock:
    return LMIBlock(
        _wide(block.skip),
        tuple(_wide(c) for c in block.inner),
        tuple(None if t is None else _wide(t) for t in block.taps),
        tuple(_wide(m).real for m in block.multipliers),
    )


def _wide(w: Tensor) -> Tensor:
    w = w.detach().cpu()
    if not bool(w.isfinite().all()):
        raise ValueError("the block's weights hold NaN or infinite values, and have no bound")
    return w.to(torch.complex128 if w.is_complex() else torch.float64)


def _exact(multiplier: Tensor) -> Tensor:
    """Round to float32, so that the product with a float32 weight is exact in float64."""
    return multiplier.float().clamp_min(torch.finfo(torch.float32).tiny).double()


def _square(w: Tensor) -> float:
    """The largest squared Frobenius norm of matrices."""
    return float(w.abs().square().sum((-2, -1)).max())
