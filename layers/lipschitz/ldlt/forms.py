"""The forms an LDLᵀ block comes in: which map belongs to which, and what each refuses."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..proof.inequality import LMIBlock
from .chain import (
    dense_block,
    dense_inverse,
    feed_forward_block,
    feed_forward_inverse,
    residual_block,
    residual_inverse,
    taps_block,
    taps_inverse,
)
from .joint import joint_block, joint_inverse
from .skip import skip_block, skip_inverse

__all__ = ["MAPS", "Wiring", "check_wiring", "given_skip", "same_block", "unit_multipliers"]

Wiring = Literal["joint", "skip_first", "chain_first", "feed_forward", "taps", "dense"]

MAPS = {
    "joint": (joint_block, joint_inverse),
    "skip_first": (skip_block, skip_inverse),
    "chain_first": (residual_block, residual_inverse),
    "feed_forward": (feed_forward_block, feed_forward_inverse),
    "taps": (taps_block, taps_inverse),
    "dense": (dense_block, dense_inverse),
}
"""Map and inverse map of every form with learned matrices only."""


def check_wiring(skip: str | Tensor, wiring: str | None, layers: int) -> Wiring:
    """Return the form of a block, from what skip and wiring say.

    Raises:
        ValueError: an unknown choice, two that exclude each other, or an identity or given skip
            over more than one inner layer.
    """
    given = isinstance(skip, Tensor)
    if not given and skip not in ("learned", "identity", "none"):
        raise ValueError(f"skip must be 'learned', 'identity', 'none' or a matrix, got {skip!r}")
    if wiring is not None and wiring not in MAPS:
        raise ValueError(f"wiring must be one of {', '.join(MAPS)}, got {wiring!r}")
    if given or skip == "identity":
        name = "a given matrix" if given else repr(skip)
        if layers > 1:
            raise ValueError(
                f"skip={name} with {layers} inner layers: there A = L I forces C_1 = 0 and B = 0, "
                f"so only one inner layer can have it; use skip='learned'"
            )
        if wiring is not None:
            raise ValueError(f"skip={name} has a form of its own, got wiring={wiring!r}")
        return "skip_first"
    if (skip == "none") != (wiring == "feed_forward") and not (skip == "none" and wiring is None):
        raise ValueError(
            f"wiring='feed_forward' is the form with skip='none', got skip={skip!r} and "
            f"wiring={wiring!r}"
        )
    if wiring == "joint" and layers != 2:
        raise ValueError(
            f"wiring='joint' is the form of two inner layers, got {layers}; use 'skip_first'"
        )
    if skip == "none":
        return "feed_forward"
    if wiring is None:
        return "joint" if layers == 2 else "skip_first"
    return wiring  # type: ignore[return-value]


def given_skip(skip: Tensor, shape: tuple[int, int], lipschitz: float) -> tuple[Tensor, ...]:
    """Return a given A with its (I − A Aᵀ/L²)^{1/2}, or A alone where that is zero.

    Eigenvalues of I − A Aᵀ/L² that rounding leaves just below zero count as zero.

    Raises:
        ValueError: another shape, or ‖A‖ above L by more than a few roundings.
    """
    if tuple(skip.shape) != shape:
        raise ValueError(f"skip must be a matrix of shape {shape}, got {tuple(skip.shape)}")
    wide = skip.detach().double()
    tolerance = 8 * torch.finfo(skip.dtype).eps
    values, vectors = torch.linalg.eigh(
        torch.eye(shape[0], dtype=wide.dtype, device=wide.device) - wide @ wide.mT / lipschitz**2
    )
    if not float(values.min()) >= -tolerance:
        norm = float(torch.linalg.matrix_norm(wide, 2))
        raise ValueError(f"skip has norm {norm:.6g}, above lipschitz={lipschitz:g}")
    kept = skip.detach().clone()
    if float(values.max()) <= tolerance:
        return (kept,)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    return kept, root.to(skip.dtype)


def unit_multipliers(
    block: LMIBlock, biases: Sequence[Tensor]
) -> tuple[LMIBlock, tuple[Tensor, ...]]:
    """Return the block with λ = 1 that computes the same for σ(t x) = t σ(x), t > 0.

    Inner signals become Λ_k^{1/2} w_k, and biases Λ_k^{1/2} b_k.
    """
    roots = [m.sqrt() for m in block.multipliers]
    inner = []
    for k, (c, root) in enumerate(zip(block.inner, roots, strict=True)):
        scale = torch.cat([c.new_ones(block.widths[0]), *roots[:k]])[-c.shape[-1] :]
        inner.append(root.unsqueeze(-1) * c / scale)
    taps = (None if t is None else t / r for t, r in zip(block.taps, roots, strict=True))
    ones = tuple(torch.ones_like(m) for m in block.multipliers)
    scaled = tuple(r * b for r, b in zip(roots, biases, strict=False))
    return LMIBlock(block.skip, tuple(inner), tuple(taps), ones), scaled


def same_block(one: LMIBlock, other: LMIBlock) -> float:
    """Return the largest difference between two blocks' weights; a missing tap counts as zero."""
    pairs = [(one.skip, other.skip), *zip(one.inner, other.inner, strict=True)]
    zero = one.skip.new_zeros(())
    for a, b in zip(one.taps, other.taps, strict=True):
        pairs.append((zero if a is None else a, zero if b is None else b))
    return max(float((a - b).abs().max()) for a, b in pairs)
