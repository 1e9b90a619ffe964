"""LDLᵀ blocks, chain first: free matrices to weights whose matrix inequality holds with certainty.

The part of P(L) without the output is factored as R Rᵀ, R block lower triangular with R_00 = L I
and, with N_k, Q_k the Cholesky factor and the contraction of K_k and S_k = Λ_k^{1/2},

    R_kk = √2 S_k N_k⁻¹,   R_{k,k-1} = −√2 S_k Q_k,
    C_1 = √2 L S_1⁻¹ Q_1,  C_k = 2 S_k⁻¹ Q_k N_{k-1}⁻ᵀ S_{k-1}.

P(L) ≥ 0 is then ‖[T_0 … T_n]‖ ≤ 1 for [A, B_1 … B_n] = [T_0 … T_n] Rᵀ, that is

    A = L T_0,   B_k = √2 (T_k − T_{k-1} K_kᵀ) N_k⁻ᵀ S_k.

* taps: [T_0 … T_n] is the contraction of any matrix; every inner layer reaches the output.
* residual: B_1 … B_{n-1} = 0 forces T_k = T_{k-1} K_kᵀ, k < n, which the contraction keeps: it is
  that of [K_0, K_0 K_1ᵀ, …, K_0 K_1ᵀ … K_{n-1}ᵀ, K_B].
* feed-forward: A = 0, B_n = √2 T_n N_n⁻ᵀ S_n. This is a Sandwich layer with a Cholesky factor.
* dense: w_k reads all of w_0 … w_{k-1}; R_k = √2 S_k N_k⁻¹ [−K_k, I], C_k = √2 S_k⁻¹ Q_k R_{<k}ᵀ.

Every block with P(L) > 0 comes from exactly one choice of the free matrices; `inverse` finds it.

Source: the LDLᵀ idea is Juston et al. 2025, arXiv:2512.05915; these forms are derived here.
Differs from it: the order of elimination, a joint contraction in place of a sum of cross terms,
any L, any multipliers, complex matrices with leading axes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..proof.inequality import LMIBlock
from .contraction import contraction, solve_left, solve_right, uncontract

__all__ = [
    "ROOT2",
    "Free",
    "dense_block",
    "dense_inverse",
    "feed_forward_block",
    "feed_forward_inverse",
    "only_last_tap",
    "residual_block",
    "residual_inverse",
    "rows",
    "taps_block",
    "taps_inverse",
    "through",
]

ROOT2 = math.sqrt(2.0)


class Free(NamedTuple):
    """The unconstrained parameters of a block.

    Attributes:
        inner: K_1 … K_n, K_k of the shape of C_k.
        out: What the contraction of the output is made from: [K_0, K_B] (d_y, d_0 + d_n) in the
            residual forms, K_B (d_y, d_n) in the feed-forward one, (d_y, d_0 + … + d_n) else.
        multipliers: λ_1 … λ_n, each (d_k,), positive.
    """

    inner: tuple[Tensor, ...]
    out: Tensor
    multipliers: tuple[Tensor, ...]


def rows(scale: Tensor, matrix: Tensor) -> Tensor:
    """Return diag(scale) · matrix."""
    return scale.unsqueeze(-1) * matrix


class _Chain(NamedTuple):
    """C_k, K_k, N_k and S_k of a chain."""

    c: list[Tensor]
    k: Sequence[Tensor]
    n: list[Tensor]
    s: list[Tensor]

    def tap(self, layer: int, t: Tensor | None, before: Tensor | None) -> Tensor:
        """Return B_k = √2 (T_k − T_{k-1} K_kᵀ) N_k⁻ᵀ S_k; None is a zero T."""
        core = t
        if before is not None:
            core = (0 if t is None else t) - before @ self.k[layer - 1].mH
        assert isinstance(core, Tensor)
        return ROOT2 * solve_right(core, self.n[layer - 1]) * self.s[layer - 1]

    def untap(self, layer: int, tap: Tensor, before: Tensor | None) -> Tensor:
        """Return the T_k of a B_k."""
        t = (tap / self.s[layer - 1]) @ self.n[layer - 1].mH / ROOT2
        return t if before is None else t + before @ self.k[layer - 1].mH


def _chain(free: Free, lipschitz: float) -> _Chain:
    cs, ns, ss = [], [], []
    for k, (matrix, multiplier) in enumerate(zip(free.inner, free.multipliers, strict=True)):
        q, n = contraction(matrix)
        s = multiplier.sqrt()
        c = ROOT2 * lipschitz * q if k == 0 else 2 * solve_right(q, ns[-1]) * ss[-1]
        cs.append(rows(1 / s, c))
        ns.append(n)
        ss.append(s)
    return _Chain(cs, free.inner, ns, ss)


def _unchain(block: LMIBlock, lipschitz: float) -> _Chain:
    ks, ns, ss = [], [], []
    for k, (c, multiplier) in enumerate(zip(block.inner, block.multipliers, strict=True)):
        s = multiplier.sqrt()
        q = rows(s, c)
        q = q / (ROOT2 * lipschitz) if k == 0 else (q / ss[-1]) @ ns[-1].mH / 2
        matrix, n = uncontract(q, f"the contraction of C_{k + 1}")
        ks.append(matrix)
        ns.append(n)
        ss.append(s)
    return _Chain(list(block.inner), ks, ns, ss)


def through(first: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
    """Return X, X K_1ᵀ, X K_1ᵀ K_2ᵀ, …: what taps of zero make of the columns after X."""
    parts = [first]
    for k in kernels:
        parts.append(parts[-1] @ k.mH)
    return parts


def residual_block(free: Free, lipschitz: float) -> LMIBlock:
    """Return the weights of y = A x + B σ(C_n … σ(C_1 x)), for any n ≥ 1."""
    chain = _chain(free, lipschitz)
    width, n = free.inner[0].shape[-1], len(free.inner)
    parts = through(free.out[..., :width], free.inner[:-1])
    sizes = [part.shape[-1] for part in parts]
    last = free.out[..., width:]
    t, _ = contraction(torch.cat([*parts, last], dim=-1))
    ts = t.split([*sizes, last.shape[-1]], dim=-1)
    taps = (*[None] * (n - 1), chain.tap(n, ts[-1], ts[-2]))
    return LMIBlock(lipschitz * ts[0], tuple(chain.c), taps, free.multipliers)


def residual_inverse(block: LMIBlock, lipschitz: float) -> Free:
    """Return the parameters of a residual block with P(L) > 0.

    Raises:
        ValueError: the block is not strictly certified, or taps other than the last.
    """
    last = only_last_tap(block)
    chain = _unchain(block, lipschitz)
    parts = through(block.skip / lipschitz, chain.k[:-1])
    t = chain.untap(len(block.inner), last, parts[-1])
    out, _ = uncontract(torch.cat([*parts, t], dim=-1), "the contraction of the output")
    ends = out[..., : parts[0].shape[-1]], out[..., -t.shape[-1] :]
    return Free(tuple(chain.k), torch.cat(ends, dim=-1), block.multipliers)


def feed_forward_block(free: Free, lipschitz: float) -> LMIBlock:
    """Return the weights of y = B σ(C_n … σ(C_1 x)), for any n ≥ 1."""
    chain = _chain(free, lipschitz)
    n = len(free.inner)
    t, _ = contraction(free.out)
    skip = t.new_zeros(*t.shape[:-1], free.inner[0].shape[-1])
    taps = (*[None] * (n - 1), chain.tap(n, t, None))
    return LMIBlock(skip, tuple(chain.c), taps, free.multipliers)


def feed_forward_inverse(block: LMIBlock, lipschitz: float) -> Free:
    """Return the parameters of a feed-forward block with P(L) > 0.

    Raises:
        ValueError: the block is not strictly certified, has a skip, or taps other than the last.
    """
    last = only_last_tap(block)
    if bool((block.skip != 0).any()):
        raise ValueError("a feed-forward block has no skip, but the skip given is not zero")
    chain = _unchain(block, lipschitz)
    t = chain.untap(len(block.inner), last, None)
    out, _ = uncontract(t, "the contraction of the output")
    return Free(tuple(chain.k), out, block.multipliers)


def taps_block(free: Free, lipschitz: float) -> LMIBlock:
    """Return the weights of y = A x + Σ_k B_k w_k over a chain of inner layers."""
    chain = _chain(free, lipschitz)
    t, _ = contraction(free.out)
    widths = [free.inner[0].shape[-1], *(k.shape[-2] for k in free.inner)]
    parts = t.split(widths, dim=-1)
    taps = tuple(chain.tap(k, parts[k], parts[k - 1]) for k in range(1, len(parts)))
    return LMIBlock(lipschitz * parts[0], tuple(chain.c), taps, free.multipliers)


def taps_inverse(block: LMIBlock, lipschitz: float) -> Free:
    """Return the parameters of a block with taps and P(L) > 0; a missing tap counts as zero.

    Raises:
        ValueError: the block is not strictly certified.
    """
    chain = _unchain(block, lipschitz)
    parts = [block.skip / lipschitz]
    for k, tap in enumerate(all_taps(block), start=1):
        parts.append(chain.untap(k, tap, parts[-1]))
    out, _ = uncontract(torch.cat(parts, dim=-1), "the contraction of the output")
    return Free(tuple(chain.k), out, block.multipliers)


def dense_block(free: Free, lipschitz: float) -> LMIBlock:
    """Return the weights of the block in which every layer and the output read all before them."""
    width = free.inner[0].shape[-1]
    like = free.inner[0]
    factor = lipschitz * torch.eye(width, dtype=like.dtype, device=like.device)
    factor = factor.expand(*like.shape[:-2], width, width)
    cs = []
    for matrix, multiplier in zip(free.inner, free.multipliers, strict=True):
        q, n = contraction(matrix)
        s = multiplier.sqrt()
        cs.append(rows(1 / s, ROOT2 * q @ factor.mH))
        eye = torch.eye(n.shape[-1], dtype=n.dtype, device=n.device).expand_as(n)
        row = ROOT2 * rows(s, torch.cat([-q, solve_left(n, eye)], dim=-1))
        factor = torch.cat([torch.nn.functional.pad(factor, (0, n.shape[-1])), row], dim=-2)
    t, _ = contraction(free.out)
    widths = [width, *(k.shape[-2] for k in free.inner)]
    skip, *taps = (t @ factor.mH).split(widths, dim=-1)
    return LMIBlock(skip, tuple(cs), tuple(taps), free.multipliers)


def dense_inverse(block: LMIBlock, lipschitz: float) -> Free:
    """Return the parameters of a fully dense block with P(L) > 0.

    Raises:
        ValueError: the block is not strictly certified, or an inner layer that does not read all
            before it.
    """
    widths = block.widths
    eye = torch.eye(widths[0], dtype=block.skip.dtype, device=block.skip.device)
    factor = (lipschitz * eye).expand(*block.skip.shape[:-2], widths[0], widths[0])
    ks = []
    for k, (c, multiplier) in enumerate(zip(block.inner, block.multipliers, strict=True)):
        if c.shape[-1] != sum(widths[: k + 1]):
            raise ValueError(f"C_{k + 1} reads {c.shape[-1]} of {sum(widths[: k + 1])} signals")
        s = multiplier.sqrt()
        q, matrix, n = _undense(c, s, factor, k)
        ks.append(matrix)
        eye = torch.eye(n.shape[-1], dtype=n.dtype, device=n.device).expand_as(n)
        row = ROOT2 * rows(s, torch.cat([-q, solve_left(n, eye)], dim=-1))
        factor = torch.cat([torch.nn.functional.pad(factor, (0, n.shape[-1])), row], dim=-2)
    whole = torch.cat([block.skip, *all_taps(block)], dim=-1)
    out, _ = uncontract(solve_right(whole, factor), "the contraction of the output")
    return Free(tuple(ks), out, block.multipliers)


def _undense(c: Tensor, s: Tensor, factor: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    q = solve_right(rows(s, c), factor) / ROOT2
    matrix, n = uncontract(q, f"the contraction of C_{k + 1}")
    return q, matrix, n


def only_last_tap(block: LMIBlock) -> Tensor:
    """Return B_n of a block whose other taps are absent.

    Raises:
        ValueError: another tap.
    """
    *others, last = block.taps
    extra = [k for k, tap in enumerate(others, start=1) if tap is not None and bool(tap.any())]
    if last is None or extra:
        raise ValueError(
            f"only the last inner layer may reach the output here, got taps at {extra}; "
            f"use the form with taps"
        )
    return last


def all_taps(block: LMIBlock) -> list[Tensor]:
    """Return B_1 … B_n with zeros where one is absent."""
    return [
        block.skip.new_zeros(*block.skip.shape[:-1], width) if tap is None else tap
        for tap, width in zip(block.taps, block.widths[1:], strict=True)
    ]
