"""Roots of moments: B with B Bᵀ = M, and the pseudo-inverse of B, or those of a diagonal.

A diagonal moment scales columns; no n × n matrix is made of it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MomentRoot", "refuse_negative"]


class MomentRoot(NamedTuple):
    """A root B of a moment B Bᵀ and its pseudo-inverse: (..., n, n), or (..., n) if diagonal."""

    root: Tensor
    inverse: Tensor
    diagonal: bool

    def times(self, matrix: Tensor) -> Tensor:
        """Return W B for W (..., rows, n)."""
        return matrix * self.root[..., None, :] if self.diagonal else matrix @ self.root

    def undone(self, matrix: Tensor) -> Tensor:
        """Return W B⁺ for W (..., rows, n)."""
        return matrix * self.inverse[..., None, :] if self.diagonal else matrix @ self.inverse

    @classmethod
    def of(
        cls, moment: Tensor, shape: tuple[int, ...], name: str, damping: float = 0.0
    ) -> "MomentRoot":
        """Take the root of a moment, damped by a share of the mean of its eigenvalues.

        Args:
            moment: M (*shape, n), or its diagonal (*shape).
            shape: (..., n).
            name: How messages call the moment.
            damping: As in `weighted_svd`.

        Raises:
            ValueError: another shape, or a negative eigenvalue.
        """
        size = shape[-1]
        diagonal = moment.shape == shape
        if not diagonal and moment.shape != (*shape, size):
            raise ValueError(
                f"{name} must have shape {(*shape, size)}, or {shape} for a diagonal, got "
                f"{tuple(moment.shape)}"
            )
        values, vectors = (moment, None) if diagonal else torch.linalg.eigh(moment)
        zero = refuse_negative(values, name, size)
        values = values + damping * values.mean(-1, keepdim=True)
        scale = torch.where(values > zero, values, 0).sqrt()
        inverse = torch.where(values > zero, values.rsqrt(), 0)
        if vectors is None:
            return cls(scale, inverse, True)
        return cls(vectors * scale[..., None, :], inverse[..., None] * vectors.mT, False)


def refuse_negative(eigenvalues: Tensor, name: str, size: int) -> Tensor:
    """Return the largest value (..., 1) that counts as a zero eigenvalue.

    Args:
        eigenvalues: (..., n).
        name: How the message calls the moment.
        size: n, the roundings of one eigenvalue.

    Raises:
        ValueError: an eigenvalue that is negative beyond rounding.
    """
    largest = eigenvalues.amax(-1, keepdim=True)
    zero = size * torch.finfo(eigenvalues.dtype).eps * largest
    if (eigenvalues < -10 * zero).any() or (largest < 0).any():
        raise ValueError(
            f"{name} has the negative eigenvalue {float(eigenvalues.min()):.3g}; a moment has none"
        )
    return zero
