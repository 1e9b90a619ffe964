"""LDLᵀ blocks of two inner layers: all four weights from one contraction.

Scaled to a unit diagonal, the matrix of the inequality (with the output as a block of its own) has
blocks only where signals meet, with S_k = Λ_k^{1/2},

    y, x: A/L,   y, w_2: B S_2⁻¹/√2,   w_1, x: S_1 C_1/(√2 L),   w_1, w_2: S_1⁻¹ C_2ᵀ S_2/2,

up to signs that no norm sees. These four pairs form a cycle of even length: y and w_1 meet x and
w_2, and never each other. A matrix [[I, M], [Mᵀ, I]] is ≥ 0 iff ‖M‖ ≤ 1, so that

    P(L) ≥ 0   iff   ‖M‖ ≤ 1,   M = [[A/L, B S_2⁻¹/√2], [S_1 C_1/(√2 L), S_1⁻¹ C_2ᵀ S_2/2]],

and no entry of M is prescribed: it is the contraction of [[K_0, K_B], [K_1, K_2ᵀ]], from its small
side. Every block with P(L) > 0 comes from exactly one choice of the free matrices. For other
numbers of inner layers the cycle is odd, or M has blocks of zeros.

Source: derived here; the inequality is that of Juston et al. 2025, arXiv:2512.05915.
Differs from it: no order of elimination, since there is one factor.
"""

import torch
from torch import Tensor

from ..proof.inequality import LMIBlock
from .chain import ROOT2, Free, only_last_tap, rows
from .contraction import bounded, contract, contraction_backward, uncontract
from .float32_backward import Rule

__all__ = ["JOINT", "joint_block", "joint_inverse"]

Tensors = tuple[Tensor, ...]


def joint_block(free: Free, lipschitz: float) -> LMIBlock:
    """Return the weights of y = A x + B σ(C_2 σ(C_1 x)) from K_1, K_2 and [K_0, K_B].

    Raises:
        ValueError: another number of inner layers.
    """
    _check_two(free.inner)
    skip, c1, c2, tap = _define((free.out, *free.inner), lipschitz)
    s1, s2 = (m.sqrt() for m in free.multipliers)
    inner = rows(1 / s1, c1), rows(1 / s2, c2) * s1
    return LMIBlock(skip, inner, (None, tap * s2), free.multipliers)


def joint_inverse(block: LMIBlock, lipschitz: float) -> Free:
    """Return the parameters of a block of two inner layers with P(L) > 0.

    Raises:
        ValueError: the block is not strictly certified, has another number of inner layers, or
            taps other than the last.
    """
    _check_two(block.inner)
    s1, s2 = (m.sqrt() for m in block.multipliers)
    c1, c2 = block.inner
    weights = block.skip, rows(s1, c1), rows(s2, c2) / s1, only_last_tap(block) / s2
    skip, c1, c2, tap = (w / scale for w, scale in zip(weights, _scales(lipschitz), strict=True))
    m = _whole(torch.cat([skip, tap], dim=-1), c1, c2)
    tall = m.shape[-2] > m.shape[-1]
    whole, _ = uncontract(m.mH if tall else m, "the contraction of all weights")
    k0, k1, k2, kb = _blocks(whole.mH if tall else whole, c1.shape)
    return Free((k1, k2), torch.cat([k0, kb], dim=-1), block.multipliers)


def _check_two(inner: Tensors) -> None:
    if len(inner) != 2:
        raise ValueError(f"the joint form has two inner layers, got {len(inner)}")


def _whole(out: Tensor, k1: Tensor, k2: Tensor) -> Tensor:
    """Return [[K_0, K_B], [K_1, K_2ᵀ]]."""
    return torch.cat([out, torch.cat([k1, k2.mH], dim=-1)], dim=-2)


def _blocks(m: Tensor, shape: torch.Size) -> Tensors:
    """Return what stands in M for A, C_1, C_2 and B, with C_1 of a shape."""
    height, width = shape[-2:]
    top, bottom = m.split([m.shape[-2] - height, height], dim=-2)
    sizes = [width, m.shape[-1] - width]
    (skip, tap), (c1, c2) = top.split(sizes, dim=-1), bottom.split(sizes, dim=-1)
    return skip, c1, c2.mH, tap


def _scales(lipschitz: float) -> tuple[float, ...]:
    """Return A, C_1, C_2 and B in units of their blocks, for λ = 1."""
    return lipschitz, ROOT2 * lipschitz, 2.0, ROOT2


def _define(parameters: Tensors, lipschitz: float) -> Tensors:
    blocks = _blocks(bounded(_whole(*parameters)), parameters[1].shape)
    return tuple(scale * m for scale, m in zip(_scales(lipschitz), blocks, strict=True))


def _forward(parameters: Tensors, lipschitz: float) -> tuple[Tensors, Tensors]:
    out, k1, k2 = parameters
    height, width = len(out) + len(k1), out.shape[1]
    # One buffer for K, its contraction and the scaled blocks: memory is half of the time.
    q = out.new_empty(min(height, width), max(height, width), dtype=torch.float64)
    m = q.mT if height > width else q
    for block, value in zip(_blocks(m, k1.shape), _blocks_of(parameters), strict=True):
        block.copy_(value)
    _, n = contract(q, in_place=True)
    narrow = torch.promote_types(out.dtype, torch.float32)
    factors = q.to(narrow), n.to(narrow)
    blocks = zip(_scales(lipschitz), _blocks(m, k1.shape), strict=True)
    return tuple(block.mul_(scale) for scale, block in blocks), factors


def _blocks_of(parameters: Tensors) -> Tensors:
    out, k1, k2 = parameters
    return out[:, : k1.shape[1]], k1, k2, out[:, k1.shape[1] :]


def _backward(factors: Tensors, grads: Tensors, lipschitz: float) -> Tensors:
    q, n = factors
    shape, height = grads[1].shape, len(grads[0]) + len(grads[1])
    of_q = torch.empty_like(q)
    tall = height > q.shape[0]
    of_m = of_q.mT if tall else of_q
    for block, scale, grad in zip(_blocks(of_m, shape), _scales(lipschitz), grads, strict=True):
        torch.mul(grad, scale, out=block)
    of_k = contraction_backward(q, n, of_q, None)
    k0, k1, k2, kb = _blocks(of_k.mT if tall else of_k, shape)
    return torch.cat([k0, kb], dim=1), k1, k2


JOINT = Rule(_define, _forward, _backward, factors=2)
"""[K_0, K_B], K_1, K_2 -> A, C_1, C_2, B, for λ = 1."""
