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

INFLATIONS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


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
    wide = _wide_block(block)
    best = math.inf
    for inflation in inflations:
        n = len(wide.inner)
        scaled = tuple(
            _exact(m * (1 + inflation) ** (n - k)) for k, m in enumerate(wide.multipliers)
        )
        trial = wide._replace(multipliers=scaled)
        square = _least_square(trial)
        if square is None:
            continue
        candidate, slack = math.sqrt(max(float(square.detach()), 0.0)), 1e-12
        if candidate == 0.0:
            candidate = 1e-150  # a constant block: any positive L will do
        while candidate * (1 + slack) < best and slack < 1.0:
            if verify(trial, candidate * (1 + slack), roundings=roundings):
                best = candidate * (1 + slack)
            slack *= 2
    return best


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
    block = block._replace(multipliers=closed_form(block))
    coarse = [(_value(_scaled(block, 2.0**k)), 2.0**k) for k in range(-8, 9)]
    best, scale = min(coarse)
    if best == math.inf:
        return math.inf
    fine = [scale * 2.0 ** (k / 8) for k in range(-8, 9)]
    best, scale = min((_value(_scaled(block, s)), s) for s in fine)
    block = _descend(_scaled(block, scale), best, steps)
    return verified_lipschitz(block, roundings=roundings, inflations=(0.0, 1e-7, 1e-5, 1e-3))


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


def _descend(block: LMIBlock, best: float, steps: int) -> LMIBlock:
    """Lower L² over log Λ by Adam; return the block with the best multipliers seen."""
    logs = [m.log().requires_grad_() for m in block.multipliers]
    optimiser = torch.optim.Adam(logs, lr=0.1, betas=(0.9, 0.95))
    kept = [log.detach().clone() for log in logs]
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * (1 - step / steps) ** 2 + 1e-4
        with torch.enable_grad():
            trial = block._replace(multipliers=tuple(log.exp() for log in logs))
            square = _least_square(trial)
        if square is None:  # outside the feasible set: go back half way to the best point
            with torch.no_grad():
                for log, old in zip(logs, kept, strict=True):
                    log.lerp_(old, 0.5)
            continue
        if float(square.detach()) < best:
            best, kept = float(square.detach()), [log.detach().clone() for log in logs]
        gradients = torch.autograd.grad(square, logs)
        for log, gradient in zip(logs, gradients, strict=True):
            log.grad = gradient
        optimiser.step()
    return block._replace(multipliers=tuple(old.exp() for old in kept))


def _least_square(block: LMIBlock) -> Tensor | None:
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
    return torch.linalg.eigvalsh(schur)[..., -1].max()


def _value(block: LMIBlock) -> float:
    square = _least_square(block)
    return math.inf if square is None else float(square)


def _scaled(block: LMIBlock, scale: float) -> LMIBlock:
    return block._replace(multipliers=tuple(scale * m for m in block.multipliers))


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
