"""LDLᵀ blocks, skip first: the skip is chosen freely, the branch takes what it leaves.

With M_0 the Cholesky factor of I + K_0ᵀ K_0 and N_k, Q_k those of K_k as in `ldlt`,

    A = L K_0 M_0⁻ᵀ,   D_0 = L² I − Aᵀ A = F_0 F_0ᵀ,   F_0 = L M_0⁻¹,
    D_k = 2Λ_k − Λ_k C_k D_{k-1}⁻¹ C_kᵀ Λ_k = F_k F_kᵀ,   F_k = √2 S_k N_k⁻¹,
    C_k = √2 S_k⁻¹ Q_k F_{k-1}ᵀ  (k < n),   C_n = √2 S_n⁻¹ Q_n Uᵀ F_{n-1}ᵀ.

The skip meets the output, which fills the last column of the elimination in: Π_0 = K_0,
Π_k = Π_{k-1} K_kᵀ, Σ_k = I + Σ_{j≤k} Π_j Π_jᵀ, U Uᵀ = I + Π_{n-1}ᵀ Σ_{n-2}⁻¹ Π_{n-1} (Σ_{-1} = I),

    B = √2 (G⁻ᵀ Q_B − Σ⁻¹ Π_{n-1} U K_nᵀ) N_n⁻ᵀ S_n,   G Gᵀ = Σ = Σ_{n-1}.

The second term completes the square of D_n = 2Λ_n − … − Bᵀ Σ B − cross terms. K_0 = κ I gives
A = L κ/√(1 + κ²) I exactly.

For one inner layer the skip may also be given, ‖A‖ ≤ L with equality allowed:

    C = √2 L S⁻¹ Q,   B = √2 (I − A Aᵀ/L²)^{1/2} Q_B N⁻ᵀ S − A Cᵀ Λ / L².

A = I, L = 1 is an SLL block, A = 0 a Sandwich layer, A orthogonal a rotated SLL.

Source: Juston et al. 2025, arXiv:2512.05915, for the LDLᵀ order; the corner is derived here.
Differs from it: Nᵀ N and N Nᵀ are kept apart, the sum over k uses D⁻¹, and the cross term of skip
and branch is kept.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .contraction import contraction, plus_identity, slack, solve_left, solve_right, uncontract
from .ldlt import ROOT2, Free, only_last_tap, rows
from .lmi import LMIBlock

__all__ = ["given_skip_block", "skip_block", "skip_inverse"]


class _Corner(NamedTuple):
    """What the skip leaves of the output: Π_{n-1}, U, and the Cholesky factor G of Σ."""

    pi: Tensor
    u: Tensor
    g: Tensor


def _corner(k0: Tensor, kernels: list[Tensor]) -> _Corner:
    """Eliminate the skip and K_1 … K_{n-1}."""
    pi = k0
    before = torch.zeros_like(k0 @ k0.mH)
    for k in kernels:
        before = before + pi @ pi.mH
        pi = pi @ k.mH
    sigma = before + pi @ pi.mH
    extra = slack(sigma, sum(sum(k.shape[-2:]) for k in (k0, *kernels)))
    whitened = pi
    if kernels:
        whitened = solve_left(torch.linalg.cholesky(plus_identity(before, extra)), pi)
    u = torch.linalg.cholesky(plus_identity(whitened.mH @ whitened))
    return _Corner(pi, u, torch.linalg.cholesky(plus_identity(sigma, extra)))


def _cross(corner: _Corner, k: Tensor) -> Tensor:
    """Return Gᴴ Σ⁻¹ Π U K_nᴴ = G⁻¹ Π U K_nᴴ."""
    return solve_left(corner.g, corner.pi) @ corner.u @ k.mH


def skip_block(free: Free, lipschitz: float) -> LMIBlock:
    """Return the weights of y = A x + B σ(C_n … σ(C_1 x)) from [K_0, K_B] and K_1 … K_n."""
    width = free.inner[0].shape[-1]
    k0, kb = free.out[..., :width], free.out[..., width:]
    qa, m = contraction(k0.mH)  # M⁻¹ K_0ᴴ = Aᴴ / L
    *earlier, last = free.inner
    corner = _corner(k0, earlier)
    cs, factor, scale = [], m, lipschitz  # F = scale · diag(s) · factor⁻¹
    s: Tensor | None = None
    for k, multiplier in zip(earlier, free.multipliers, strict=False):
        q, n = contraction(k)
        cs.append(_inner(q, factor, scale, s, multiplier.sqrt()))
        factor, scale, s = n, ROOT2, multiplier.sqrt()
    q, n = contraction(last)
    root = free.multipliers[-1].sqrt()
    cs.append(_inner(q @ corner.u.mH, factor, scale, s, root))
    qb, _ = contraction(kb)
    core = torch.linalg.solve_triangular(corner.g.mH, qb - _cross(corner, last), upper=True)
    tap = ROOT2 * solve_right(core, n) * root
    taps = (*[None] * len(earlier), tap)
    return LMIBlock(lipschitz * qa.mH, tuple(cs), taps, free.multipliers)


def _inner(q: Tensor, factor: Tensor, scale: float, before: Tensor | None, own: Tensor) -> Tensor:
    """Return √2 S⁻¹ Q Fᴴ."""
    c = ROOT2 * scale * solve_right(q, factor)
    return rows(1 / own, c if before is None else c * before)


def skip_inverse(block: LMIBlock, lipschitz: float) -> Free:
    """Return the parameters of a residual block with P(L) > 0, in this form.

    Raises:
        ValueError: the block is not strictly certified, or taps other than the last.
    """
    tap = only_last_tap(block)
    k0h, m = uncontract(block.skip.mH / lipschitz, "A / L")
    k0, kernels = k0h.mH, []
    factor, scale, before = m, lipschitz, torch.ones_like(block.skip.real[..., 0, :])
    corner = _corner(k0, [])
    for k, (c, multiplier) in enumerate(zip(block.inner, block.multipliers, strict=True), start=1):
        own = multiplier.sqrt()
        q = (rows(own, c) / before.unsqueeze(-2)) @ factor.mH / (ROOT2 * scale)
        if k == len(block.inner):
            corner = _corner(k0, kernels)
            q = solve_right(q, corner.u)
        kernel, n = uncontract(q, f"the contraction of C_{k}")
        kernels.append(kernel)
        factor, scale, before = n, ROOT2, own
    core = (tap / before) @ factor.mH / ROOT2
    qb = corner.g.mH @ core + _cross(corner, kernels[-1])
    kb, _ = uncontract(qb, "the contraction of the output")
    return Free(tuple(kernels), torch.cat([k0, kb], dim=-1), block.multipliers)


def given_skip_block(
    skip: Tensor,
    room: Tensor | None,
    inner: Tensor,
    out: Tensor | None,
    multiplier: Tensor,
    lipschitz: float,
) -> LMIBlock:
    """Return the weights of y = A x + B σ(C x) for a given A.

    Args:
        skip: A (d_y, d_0), ‖A‖ ≤ L.
        room: (I − A Aᵀ/L²)^{1/2} (d_y, d_y); None where it is zero, as for A = L I.
        inner: K (d_1, d_0).
        out: K_B (d_y, d_1), unused where there is no room.
        multiplier: λ (d_1,).
        lipschitz: L.
    """
    q, n = contraction(inner)
    s = multiplier.sqrt()
    tap = -(ROOT2 / lipschitz) * (skip @ q.mH) * s
    if room is not None and out is not None:
        tap = tap + ROOT2 * solve_right(room @ contraction(out)[0], n) * s
    return LMIBlock(skip, (rows(1 / s, ROOT2 * lipschitz * q),), (tap,), (multiplier,))
