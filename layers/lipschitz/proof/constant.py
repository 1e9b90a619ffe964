"""The smallest Lipschitz constant that the matrix inequality proves for a block.

`verified_lipschitz` takes a block as it is deployed, with its multipliers, and returns an L at
which P(L) is proved positive definite in floating point; `shear_lipschitz` does so for a
convolutional block, at every frequency. `multipliers` is for blocks that have none.

Sources: Fazlyab et al. 2019, arXiv:1906.04893 (the inequality); Rump 2006, BIT 46 (the proof in
floating point).
Differs from them: weights are taken as they are stored, and multipliers inflated to make room for
their rounding.
"""

# Shape letters: N = d_0 + … + d_n, the order of P.

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..layer import ShearWeight
from .inequality import LMIBlock, lmi_matrix
from .norms import (
    UNIT,
    conv_bound,
    frequency_matrices,
    gamma,
    is_positive_definite,
    one_infinity_bound,
    product_up,
    root_up,
    sum_up,
    up,
    wide,
)

__all__ = ["shear_lipschitz", "verified_lipschitz", "verify", "wide_block"]

INFLATIONS = (0.0, 1e-8, 2e-8, 4e-8, 7e-8, 1e-7, 1.4e-7, 2e-7, 3e-7, 5e-7, 1e-6)
INFLATIONS += (1e-5, 1e-4, 1e-3, 1e-2)
MISSES = 2  # inflations in a row that gain nothing; the first may only have changed the rounding
BITS = 29  # of a multiplier: with the 24 of a float32 weight they fill the 53 of float64


def verify(block: LMIBlock, lipschitz: float, *, roundings: int = 0) -> bool:
    """Prove P(L) > 0 for the weights as stored; False says only that there is no proof.

    Args:
        block: Effective weights and multipliers.
        lipschitz: L > 0.
        roundings: How many roundings of float64 the weights have gone through already.
    """
    block, lipschitz = _balanced(block, lipschitz)
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


def _balanced(block: LMIBlock, lipschitz: float) -> tuple[LMIBlock, float]:
    """Return a block and an L whose inequality is that of those given, with λ and L near 1.

    Signals and outputs are scaled by powers of two, which rounds nothing, so that the slack of the
    proof, a share of the trace of P, is not a multiple of small entries.
    """
    unit = 2.0 ** round(math.log2(lipschitz))
    roots = [torch.ldexp(torch.ones_like(m), (m.log2() / 2).round()) for m in block.multipliers]
    units = roots[0].new_full((block.widths[0],), unit)
    inner, taps = [], []
    for k, (c, tap, root) in enumerate(zip(block.inner, block.taps, roots, strict=True)):
        read = torch.cat([units, *roots[:k]])[-c.shape[-1] :]
        inner.append(root.unsqueeze(-1) / read * c)
        taps.append(None if tap is None else tap / root)
    multipliers = tuple(m / r.square() for m, r in zip(block.multipliers, roots, strict=True))
    return LMIBlock(block.skip / unit, tuple(inner), tuple(taps), multipliers), lipschitz / unit


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
    stored, n = wide_block(block), len(block.inner)
    for widest in (1e-6, 1.0):  # a little slack with more inflation first
        best, missed = math.inf, 0
        for inflation in inflations:
            scaled = tuple(
                _exact(m * (1 + inflation) ** (n - k)) for k, m in enumerate(stored.multipliers)
            )
            found = _proved(stored._replace(multipliers=scaled), best, widest, roundings)
            if found < best:
                best, missed = found, 0
            elif best < math.inf:
                missed += 1
            if missed == MISSES:
                break  # more inflation costs more than it gives
        if best < math.inf:
            return best
    return math.inf


def _proved(block: LMIBlock, best: float, widest: float, roundings: int) -> float:
    """Return an L below `best` that a block's multipliers prove, or infinity."""
    square = _least_square(block)
    if square is None:
        return math.inf
    # A constant block has L = 0, and any positive number will do.
    candidate, slack = math.sqrt(max(square, 0.0)) or 1e-150, 1e-12
    while candidate * (1 + slack) < best and slack <= widest:
        if verify(block, candidate * (1 + slack), roundings=roundings):
            return candidate * (1 + slack)
        slack *= 4
    return math.inf


def shear_lipschitz(weight: ShearWeight, size: Sequence[int]) -> float:
    """Return a proved Lipschitz constant of x -> a x + Dᵀ σ(C x) with zero-padded convolutions.

    With R = Λ C + a D and 2Λ − D Dᵀ ≥ m > 0 the inequality holds from L² = a² + ‖R‖²/m on. Both are
    read off the frequencies of a grid on which the circular maps contain the zero-padded ones.

    Args:
        weight: The block's effective weights.
        size: Height and width of the image.
    """
    inner, outer = wide(weight.inner), wide(weight.outer)
    a, best = abs(weight.skip), math.inf
    for inflation in INFLATIONS:
        multipliers = _exact(wide(weight.multipliers) * (1 + inflation))
        margin = _shear_margin(outer, multipliers, size)
        if margin <= 0.0:
            continue
        scaled = multipliers.view(-1, 1, 1, 1) * inner
        # Two products and a sum, which may cancel: bounded by the parts.
        parts = sum_up(_loose(scaled), product_up(a, _loose(outer)))
        norm = sum_up(conv_bound(scaled + weight.skip * outer, size), product_up(gamma(8), parts))
        found = root_up(sum_up(up(a * a), up(up(norm * norm) / margin)))
        if found >= best:
            break  # more inflation costs more than it gives
        best = found
    return best


def _loose(kernel: Tensor) -> float:
    """A cheap bound of the norm of a convolution, and of that with |kernel|."""
    return one_infinity_bound(kernel.abs().flatten(2).sum(2))


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


def wide_block(block: LMIBlock) -> LMIBlock:
    """Return a block with the same numbers in float64, on the CPU."""
    return LMIBlock(
        wide(block.skip),
        tuple(wide(c) for c in block.inner),
        tuple(None if t is None else wide(t) for t in block.taps),
        tuple(wide(m).real for m in block.multipliers),
    )


def _exact(multiplier: Tensor) -> Tensor:
    """Round to 29 bits, so that the product with a float32 weight is exact in float64."""
    fraction, exponent = torch.frexp(multiplier.double().clamp_min(2.0**-500))
    return torch.ldexp((fraction * 2.0**BITS).round() * 2.0**-BITS, exponent)


def _square(w: Tensor) -> float:
    """The largest squared Frobenius norm of matrices."""
    return float(w.abs().square().sum((-2, -1)).max())
