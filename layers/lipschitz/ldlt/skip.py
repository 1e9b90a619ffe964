"""LDLᵀ blocks, skip first: the skip is chosen freely, the branch takes what it leaves.

The output is eliminated first, then x, w_1 … w_n. With M_0 the Cholesky factor of I + K_0ᵀ K_0, and
N_k, Q_k those of K_k and S_k = Λ_k^{1/2} as in `chain`,

    A = L K_0 M_0⁻ᵀ,   C_1 = √2 L S_1⁻¹ Q_1 M_0⁻ᵀ,   C_k = 2 S_k⁻¹ Q_k N_{k-1}⁻ᵀ S_{k-1}   (k < n).

Only the last row of the factor meets the output. Its other blocks follow from B where the matrix
has zeros: with Π_0 = K_0, Π_k = Π_{k-1} K_kᵀ, that row is √2 S_n times

    [T, −T Π_0, …, −T Π_{n-2}, −Q_n, N_n⁻¹],

where [T, T Π_0, …, T Π_{n-2}, Q_n] is the contraction of [K_Bᵀ, K_Bᵀ Π_0, …, K_n], N_n its factor:

    B = √2 Tᵀ S_n,   C_n = 2 S_n⁻¹ (Q_n N_{n-1}⁻ᵀ − T Π_{n-2} Q_{n-1}ᵀ) S_{n-1},
    C_1 = √2 L S_1⁻¹ (Q_1 M_0⁻ᵀ − T A/L)   for n = 1.

The second terms complete the square of skip and branch. K_0 = κ I gives A = L κ/√(1 + κ²) I
exactly.

For one inner layer the skip may also be given, ‖A‖ ≤ L with equality allowed:

    C = √2 L S⁻¹ Q,   B = √2 (I − A Aᵀ/L²)^{1/2} Q_B N⁻ᵀ S − A Cᵀ Λ / L².

A = I, L = 1 is an SLL block, A = 0 a Sandwich layer, A orthogonal a rotated SLL.

Source: Juston et al. 2025, arXiv:2512.05915, for the LDLᵀ order; this one is derived here.
Differs from it: the output stands before x, which leaves one row to complete; Nᵀ N and N Nᵀ are
kept apart, and the cross term of skip and branch is kept.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..proof.inequality import LMIBlock
from .chain import ROOT2, Free, only_last_tap, rows, through
from .contraction import contract, contraction, contraction_backward, solve_right, uncontract
from .float32_backward import Rule

__all__ = ["SKIP_ONE", "given_skip_block", "skip_block", "skip_inverse"]


def skip_block(free: Free, lipschitz: float) -> LMIBlock:
    """Return the weights of y = A x + B σ(C_n … σ(C_1 x)) from [K_0, K_B] and K_1 … K_n."""
    *kernels, last = free.inner
    width = free.inner[0].shape[-1]
    k0, kb = free.out[..., :width], free.out[..., width:]
    qa, m = contraction(k0.mH)  # M⁻¹ K_0ᴴ = Aᴴ / L
    pairs = [(qa, m), *(contraction(k) for k in kernels)]
    parts = _last_row(kb.mH, k0, kernels)
    row, _ = contraction(torch.cat([*parts, last], dim=-1))
    *ts, q = row.split([*(part.shape[-1] for part in parts), last.shape[-1]], dim=-1)
    cores = [solve_right(q, n) for (q, _), (_, n) in zip(pairs[1:], pairs, strict=False)]
    cores.append(solve_right(q, pairs[-1][1]) - ts[-1] @ pairs[-1][0].mH)
    cs = (
        scale * rows(1 / own, core * before)
        for core, (own, before, scale) in zip(
            cores, _scales(free.multipliers, width, lipschitz), strict=True
        )
    )
    tap = ROOT2 * ts[0].mH * free.multipliers[-1].sqrt()
    taps = (*[None] * len(kernels), tap)
    return LMIBlock(lipschitz * qa.mH, tuple(cs), taps, free.multipliers)


def _scales(
    multipliers: Sequence[Tensor], width: int, lipschitz: float
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Iterate over S_k, S_{k-1} (1 for k = 1) and √2 L (2 for k > 1)."""
    before, scale = multipliers[0].new_ones(width), ROOT2 * lipschitz
    for multiplier in multipliers:
        own = multiplier.sqrt()
        yield own, before, scale
        before, scale = own, 2.0


def _last_row(t: Tensor, k0: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
    """Return T, T Π_0, …, T Π_{n-2}; T alone for n = 1."""
    return [t, *through(t @ k0, kernels[:-1])] if kernels else [t]


def skip_inverse(block: LMIBlock, lipschitz: float) -> Free:
    """Return the parameters of a residual block with P(L) > 0, in this form.

    Raises:
        ValueError: the block is not strictly certified, or taps other than the last.
    """
    tap = only_last_tap(block)
    scales = list(_scales(block.multipliers, block.skip.shape[-1], lipschitz))
    *cores, last = (
        rows(own, c / before) / scale
        for c, (own, before, scale) in zip(block.inner, scales, strict=True)
    )
    q = block.skip.mH / lipschitz
    k0h, n = uncontract(q, "A / L")
    kernels = []
    for k, core in enumerate(cores, start=1):
        q = core @ n.mH
        kernel, n = uncontract(q, f"the contraction of C_{k}")
        kernels.append(kernel)
    parts = _last_row(rows(1 / scales[-1][0], tap.mH) / ROOT2, k0h.mH, kernels)
    q = (last + parts[-1] @ q.mH) @ n.mH
    row, _ = uncontract(torch.cat([*parts, q], dim=-1), "the contraction of B and the last layer")
    kbh, kernel = row[..., : tap.shape[-2]], row[..., row.shape[-1] - q.shape[-1] :]
    out = torch.cat([k0h.mH, kbh.mH], dim=-1)
    return Free((*kernels, kernel), out, block.multipliers)


def _define(parameters: tuple[Tensor, ...], lipschitz: float) -> tuple[Tensor, ...]:
    out, k1 = parameters
    block = skip_block(Free((k1,), out, (k1.new_ones(len(k1)),)), lipschitz)
    assert block.taps[0] is not None
    return block.skip, block.inner[0], block.taps[0]


def _forward(
    parameters: tuple[Tensor, ...], lipschitz: float
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    out, k1 = parameters
    width = k1.shape[1]
    qa, m = contract(out[:, :width].mT.to(torch.float64, memory_format=torch.contiguous_format))
    row = out.new_empty(len(k1), len(out) + width, dtype=torch.float64)
    row[:, : len(out)] = out[:, width:].mT
    row[:, len(out) :] = k1
    row, n = contract(row, in_place=True)
    t, q = row.split([len(out), width], dim=1)
    first = solve_right(q, m)
    weights = lipschitz * qa.mT, ROOT2 * lipschitz * (first - t @ qa.mT), ROOT2 * t.mT
    return weights, (qa, m, row, n, first)


def _backward(
    factors: tuple[Tensor, ...], grads: tuple[Tensor, ...], lipschitz: float
) -> tuple[Tensor, ...]:
    qa, m, row, n, first = factors
    of_skip, of_core, of_tap = grads
    of_core = ROOT2 * lipschitz * of_core
    t = row[:, : len(of_tap)]
    of_q = torch.linalg.solve_triangular(m, of_core, upper=False, left=False)
    of_row = torch.cat([ROOT2 * of_tap.mT - of_core @ qa, of_q], dim=1)
    of_qa = lipschitz * of_skip.mT - of_core.mT @ t
    of_k0 = contraction_backward(qa, m, of_qa, -of_q.mT @ first).mT
    of_row = contraction_backward(row, n, of_row, None)
    return torch.cat([of_k0, of_row[:, : len(of_tap)].mT], dim=1), of_row[:, len(of_tap) :]


SKIP_ONE = Rule(_define, _forward, _backward, factors=5)
"""[K_0, K_B], K_1 -> A, C, B of one inner layer for λ = 1."""


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
