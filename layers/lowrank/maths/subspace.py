"""Orthonormal columns that stand for a matrix, and the moments of Adam when the columns change.

    G ≈ (G P) Pᵀ,    PᵀP = I
    cosines     P = Q[:, I], Q the DCT-II of n points and I the r largest columns of G Q
    singular    P = the r leading right singular vectors of G
    random      P = an orthonormal basis of r Gaussian vectors

Since Q is orthonormal, |G - G P Pᵀ|² is the sum of the squared norms of the columns of G Q that I
leaves out, so the largest norms are the best choice among the cosines. With R = PᵀP' a change of
the columns from P to P' takes a mean M and a mean of squares V of projected gradients to

    M' = M R,    V' = V (R ∘ R)

For two choices of columns of one Q, R is a part of a permutation, and both are a gather: a column
that stays keeps its numbers bit by bit, and a column that is new has zeros.

Source: Modoranu et al. 2025, "FFT-based Dynamic Subspace Selection for Low-Rank Adaptive
Optimization of Large Language Models", arXiv:2505.17967; singular vectors are those of Zhao et al.
2024, "GaLore", arXiv:2403.03507.
Differs from it: columns are ranked by their Euclidean norm, which is optimal, and not by the sum of
magnitudes; squares move by R ∘ R, which needs no absolute value afterwards.
"""

# Shape letters: m rows, n columns of a matrix, r columns that stand for it.

import math
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "RANKINGS",
    "Ranking",
    "cosine_basis",
    "gather_columns",
    "random_basis",
    "singular_basis",
    "strongest_columns",
]

Ranking = Literal["l2", "l1"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)


def cosine_basis(n: int, like: Tensor) -> Tensor:
    """Return Q (n, n), for which G Q is the orthonormal DCT-II of the rows of G.

    Args:
        n: At least 1.
        like: Gives dtype and device; the entries are computed in float64 and rounded once.
    """
    point = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(torch.outer(2 * point + 1, point) * (math.pi / (2 * n))) * math.sqrt(2 / n)
    basis[:, 0] = 1 / math.sqrt(n)
    return basis.to(dtype=like.dtype, device=like.device)


def strongest_columns(coefficients: Tensor, rank: int, ranking: Ranking = "l2") -> Tensor:
    """Return the indices (r,) of the largest columns of G Q, in ascending order.

    Args:
        coefficients: G Q, shape (m, n).
        rank: r in 1 to n.
        ranking: `l2` keeps the most energy; `l1` is the published code.
    """
    order = 1 if ranking == "l1" else 2
    accurate = torch.promote_types(coefficients.dtype, torch.float32)
    sizes = torch.linalg.vector_norm(coefficients, ord=order, dim=0, dtype=accurate)
    return sizes.topk(rank).indices.sort().values


def gather_columns(values: Tensor, old: Tensor, new: Tensor, n: int) -> Tensor:
    """Return what belongs to new columns: the values of those that stay, zeros for the others.

    Args:
        values: Of the old columns, shape (..., r).
        old: Their indices among n, shape (r,).
        new: Indices of the new ones, shape (r,).
        n: Columns to choose from.
    """
    place = old.new_full((n,), -1)
    place[old] = torch.arange(len(old), device=old.device)
    source = place[new]
    return torch.where(source >= 0, values[..., source.clamp(min=0)], 0)


def singular_basis(matrix: Tensor, rank: int) -> Tensor:
    """Return the leading right singular vectors P (n, r) of a matrix (m, n).

    Half precision is decomposed in float32. Signs are those of the decomposition.

    Raises:
        ValueError: NaN or infinite entries, which have none.
    """
    if not torch.isfinite(matrix).all():
        raise ValueError(
            f"a gradient of {matrix.shape[0]}x{matrix.shape[1]} holds NaN or infinite values and "
            f"has no singular vectors; lower lr, clip gradients, or take basis=dct"
        )
    accurate = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    _, _, right = torch.linalg.svd(accurate, full_matrices=False)
    return right[:rank].mT.contiguous().to(matrix.dtype)


def random_basis(n: int, rank: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return orthonormal columns P (n, r) in a random direction, alike on every device.

    Args:
        n: Size of the columns.
        rank: Number r ≤ n.
        like: Gives dtype and device.
        generator: On the CPU.
    """
    drawn = torch.randn(n, rank, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(drawn).Q.to(dtype=like.dtype, device=like.device)
