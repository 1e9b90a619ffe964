"""The matrix inequality that decides whether a block is L-Lipschitz.

A block reads w_0 = x and computes, with a slope-restricted activation σ (slopes in [0, 1]),

    w_k = σ(C_k w_{k-1} + b_k),   k = 1 … n,        y = A x + Σ_k B_k w_k + b_y.

With diagonal multipliers Λ_k > 0 the symmetric matrix P(L) has the blocks

    P = L² E_0 E_0ᵀ + Σ_k (2 E_k Λ_k E_kᵀ − E_k Λ_k C_k − C_kᵀ Λ_k E_kᵀ) − Tᵀ T,

where T = [A, B_1 … B_n] and C_k acts on the coordinates of w_{k-1}. P(L) ≥ 0 implies that the block
is L-Lipschitz for every bias: with v = (dx, dw_1 … dw_n),

    L²‖dx‖² − ‖dy‖² = vᵀ P v + 2 Σ_k dw_kᵀ Λ_k (C_k dw_{k-1} − dw_k),

and each summand is ≥ 0.

Source: Fazlyab et al. 2019, "Efficient and accurate estimation of Lipschitz constants for deep
neural networks", arXiv:1906.04893, with diagonal multipliers only (the coupled ones are not sound).
Differs from it: the output reads the input and any inner layer.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LMIBlock", "lmi_matrix"]


class LMIBlock(NamedTuple):
    """The effective weights of a block: what its forward multiplies by, after every cast.

    Leading axes are allowed on every tensor (the frequencies of a circular convolution, then
    complex) and broadcast.

    Attributes:
        skip: A (d_y, d_0).
        inner: C_1 … C_n. C_k is (d_k, d_{k-1}); in the fully dense form it is
            (d_k, d_0 + … + d_{k-1}), the columns being those of w_0 … w_{k-1} in order.
        taps: B_1 … B_n, each (d_y, d_k), or None where a layer does not reach the output.
        multipliers: λ_1 … λ_n, each (d_k,), positive: Λ_k = diag(λ_k).
    """

    skip: Tensor
    inner: tuple[Tensor, ...]
    taps: tuple[Tensor | None, ...]
    multipliers: tuple[Tensor, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """d_0 … d_n."""
        return (self.skip.shape[-1], *(c.shape[-2] for c in self.inner))


def lmi_matrix(block: LMIBlock, lipschitz: float) -> Tensor:
    """Return P(L) in float64 (complex128 for complex weights), from the weights as they are.

    Args:
        block: Effective weights and multipliers.
        lipschitz: L > 0.

    Returns:
        P(L) (…, N, N) with N = d_0 + … + d_n, Hermitian. Where it is ≥ 0 the block is L-Lipschitz.

    Raises:
        ValueError: L ≤ 0, or weights whose shapes do not chain.
    """
    if not lipschitz > 0:
        raise ValueError(f"lipschitz must be positive, got {lipschitz}")
    widths = block.widths
    check_shapes(block, widths)
    everything = [block.skip, *block.inner, *(t for t in block.taps if t is not None)]
    dtype = torch.complex128 if any(t.is_complex() for t in everything) else torch.float64
    lead = torch.broadcast_shapes(*(t.shape[:-2] for t in everything))
    starts = [sum(widths[:k]) for k in range(len(widths) + 1)]
    p = torch.zeros(*lead, starts[-1], starts[-1], dtype=dtype, device=block.skip.device)
    p[..., range(widths[0]), range(widths[0])] += lipschitz**2
    for k, (c, multiplier) in enumerate(zip(block.inner, block.multipliers, strict=True), start=1):
        rows = slice(starts[k], starts[k + 1])
        columns = slice(starts[k] - c.shape[-1], starts[k])
        diagonal = range(starts[k], starts[k + 1])
        p[..., diagonal, diagonal] += 2 * multiplier.to(dtype)
        coupling = multiplier.to(dtype).unsqueeze(-1) * c.to(dtype)
        p[..., rows, columns] -= coupling
        p[..., columns, rows] -= coupling.mH
    out = torch.zeros(*lead, block.skip.shape[-2], starts[-1], dtype=dtype, device=p.device)
    out[..., : widths[0]] = block.skip.to(dtype)
    for k, tap in enumerate(block.taps, start=1):
        if tap is not None:
            out[..., starts[k] : starts[k + 1]] = tap.to(dtype)
    return p - out.mH @ out


def check_shapes(block: LMIBlock, widths: tuple[int, ...]) -> None:
    """Refuse weights that do not chain.

    Raises:
        ValueError: naming the weight and the shape it should have.
    """
    n, rows = len(block.inner), block.skip.shape[-2]
    if len(block.taps) != n or len(block.multipliers) != n:
        raise ValueError(
            f"a block of {n} inner layers needs {n} taps and multipliers, got "
            f"{len(block.taps)} and {len(block.multipliers)}"
        )
    for k in range(1, n + 1):
        c, tap, multiplier = block.inner[k - 1], block.taps[k - 1], block.multipliers[k - 1]
        if c.shape[-1] not in (widths[k - 1], sum(widths[:k])):
            raise ValueError(
                f"C_{k} must have {widths[k - 1]} columns, or {sum(widths[:k])} in the dense form, "
                f"got shape {tuple(c.shape)}"
            )
        if tap is not None and tap.shape[-2:] != (rows, widths[k]):
            raise ValueError(f"B_{k} must be {(rows, widths[k])}, got shape {tuple(tap.shape)}")
        if multiplier.shape[-1] != widths[k]:
            raise ValueError(f"λ_{k} must have {widths[k]} entries, got {tuple(multiplier.shape)}")
