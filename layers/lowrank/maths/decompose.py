"""The best approximation of a matrix by two factors, in a norm that data may weight.

    minimise  tr[(W - X)ᵀ L (W - X) R]   over rank X ≤ r          L = AᵀA, R = B Bᵀ
    A W B = P S Q                        X = A⁺ P_r S_r Q_r B⁺     minimum Σ_{i>r} S_i²

With R = E[x xᵀ] of the inputs x it is the least squared error of the outputs W x. All roots A, B
give the same X. The factors are nested: a prefix of them is the best one of its own rank.

A wide matrix needs no root of R. The row side gives the same X from the moment of the outputs:

    A W R Wᵀ Aᵀ = U S² Uᵀ (rows × rows)       A X = U_r U_rᵀ A W

Singular vectors are unique up to signs, and up to a rotation where singular values coincide, so
only products and singular values may be compared. Nothing here has a gradient: that of an SVD is
undefined at equal or zero singular values.

Source: Eckart and Young 1936; Mirsky 1960 for the weighted form. Randomised: Halko, Martinsson and
Tropp 2011, "Finding Structure with Randomness", arXiv:0909.4061, algorithms 4.4 and 5.1.
Differs from it: nothing.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .moment_root import MomentRoot, refuse_negative

__all__ = [
    "Decomposition",
    "at_least_float32",
    "balanced_factors",
    "product_svd",
    "rebalance",
    "refuse_diverged",
    "refuse_infinite",
    "row_side_svd",
    "weighted_svd",
]

Split = Literal["balanced", "left", "right"]

OVERSAMPLING = 8
POWER_ITERATIONS = 4


class Decomposition(NamedTuple):
    """Two factors of a matrix, and the singular values that they come from.

    left (..., rows, r) and right (..., r, columns) have the dtype of the matrix; singular_values
    (..., K), descending, that of the SVD: all K = min(rows, columns) of them where it was exact.
    """

    left: Tensor
    right: Tensor
    singular_values: Tensor


@torch.no_grad()
def weighted_svd(
    matrix: Tensor,
    rank: int | None = None,
    left_moment: Tensor | None = None,
    right_moment: Tensor | None = None,
    *,
    split: Split = "balanced",
    method: Literal["exact", "randomized"] = "exact",
    generator: torch.Generator | None = None,
    damping: float = 0.0,
) -> Decomposition:
    """Return factors of the best X of a rank in the norm tr[(W - X)ᵀ L (W - X) R].

    Args:
        matrix: W (..., rows, columns). The SVD runs in float32 at least, and in float64 where a
            moment is given.
        rank: r in [0, min(rows, columns)]; None is all.
        left_moment: L (..., rows, rows), symmetric and positive semi-definite, or its diagonal
            (..., rows); None is I.
        right_moment: R (..., columns, columns), or its diagonal (..., columns); None is I.
        split: Where S goes: half of it to either factor, or all to one. The parts of a weighted
            SVD have equal norms only after `rebalance`, or where the row side was taken.
        method: "randomized" costs O(rows · columns · r) and is near the best where singular values
            fall off after r.
        generator: What "randomized" draws from.
        damping: δ ≥ 0; δ · mean(diag L) · I is added to L, and likewise to R. With δ = 0,
            eigenvalues below n · eps of the largest count as zero: X is then zero on directions
            without weight, and need not equal W at full rank. 1e-6 keeps W there, and so does the
            row side, which is taken for R of a matrix with fewer rows than columns.

    Returns:
        Factors, and the singular values of A W B; from the row side those below 1e-8 of the
        largest are rounding.

    Raises:
        ValueError: NaN or infinite values, a rank that W cannot have, moments of another shape or
            with a negative eigenvalue, or "randomized" without a generator.
    """
    rows, columns = matrix.shape[-2:]
    full = min(rows, columns)
    rank = full if rank is None else rank
    if not 0 <= rank <= full:
        raise ValueError(f"rank must lie in [0, {full}] for {rows}x{columns}, got {rank}")
    if split not in ("balanced", "left", "right"):
        raise ValueError(f"split must be 'balanced', 'left' or 'right', got {split!r}")
    if not damping >= 0:
        raise ValueError(f"damping must be at least 0, got {damping}")
    refuse_infinite(matrix, "matrix")
    weighted = left_moment is not None or right_moment is not None
    wide = matrix.double() if weighted else at_least_float32(matrix)
    batch = wide.shape[:-2]
    left_root = right_root = None
    if left_moment is not None:
        refuse_infinite(left_moment, "left_moment")
        left_root = MomentRoot.of(left_moment.to(wide), (*batch, rows), "left_moment", damping)
        wide = left_root.times(wide.mT).mT
    if right_moment is not None:
        refuse_infinite(right_moment, "right_moment")
        right_moment = right_moment.to(wide)
        square = right_moment.shape == (*batch, columns, columns)
        if square and method == "exact" and rows < columns:
            output = _output_moment(wide, right_moment, damping)
            left, right, values = row_side_svd(wide, rank, output, split=split)
            left = left if left_root is None else left_root.undone(left.mT).mT
            return Decomposition(left.to(matrix.dtype), right.to(matrix.dtype), values)
    if right_moment is not None:
        right_root = MomentRoot.of(
            right_moment.to(wide), (*batch, columns), "right_moment", damping
        )
        wide = right_root.times(wide)
    left, values, right = _svd(wide, rank, method, generator)
    left, right = balanced_factors(
        left[..., :rank], values[..., :rank], right[..., :rank, :], split=split
    )
    left = left if left_root is None else left_root.undone(left.mT).mT
    right = right if right_root is None else right_root.undone(right)
    return Decomposition(left.to(matrix.dtype), right.to(matrix.dtype), values)


@torch.no_grad()
def row_side_svd(
    matrix: Tensor, rank: int | None, output_moment: Tensor, *, split: Split = "balanced"
) -> Decomposition:
    """Return factors U and UᵀW of the best X = U UᵀW of a rank, from the moment of the outputs.

    U are the top eigenvectors of G = W R Wᵀ. No root of R is taken and R itself is not needed, so
    nothing is damped: a full rank keeps W on directions without data too.

    Args:
        matrix: W (..., rows, columns).
        rank: r in [0, min(rows, columns)]; None is all.
        output_moment: G (..., rows, rows), symmetric and positive semi-definite.
        split: As in `weighted_svd`; the parts have equal norms with "balanced".

    Returns:
        Factors, and the square roots of the eigenvalues of G, min(rows, columns) of them. Those
        below 1e-8 of the largest are rounding.

    Raises:
        ValueError: NaN or infinite values, a rank that W cannot have, a moment of another shape or
            with a negative eigenvalue.
    """
    rows, columns = matrix.shape[-2:]
    full = min(rows, columns)
    rank = full if rank is None else rank
    if not 0 <= rank <= full:
        raise ValueError(f"rank must lie in [0, {full}] for {rows}x{columns}, got {rank}")
    refuse_infinite(matrix, "matrix")
    refuse_infinite(output_moment, "output_moment")
    if output_moment.shape != (*matrix.shape[:-1], rows):
        raise ValueError(
            f"output_moment must have shape {(*matrix.shape[:-1], rows)} for {rows} rows, got "
            f"{tuple(output_moment.shape)}"
        )
    wide = matrix.double()
    squares, vectors = torch.linalg.eigh(output_moment.to(wide))
    refuse_negative(squares, "output_moment", rows)
    # Eigenvalues that are zero come out as roundings of either sign.
    squares, vectors = squares.flip(-1)[..., :full].clamp_min(0), vectors.flip(-1)[..., :rank]
    right = vectors.mT @ wide
    norms = torch.linalg.vector_norm(right, dim=-1)
    units = right / torch.where(norms > 0, norms, 1)[..., None]
    left, right = balanced_factors(vectors, norms, units, split=split)
    return Decomposition(left.to(matrix.dtype), right.to(matrix.dtype), squares.sqrt())


def balanced_factors(
    left: Tensor, singular_values: Tensor, right: Tensor, *, split: Split = "balanced"
) -> tuple[Tensor, Tensor]:
    """Return P S^½ and S^½ Q of an SVD P S Q, or with S on one side only.

    Args:
        left: P (..., rows, r).
        singular_values: S (..., r).
        right: Q (..., r, columns).
        split: "balanced", or the side that gets all of S.
    """
    if split == "balanced":
        root = singular_values.sqrt()
        return left * root[..., None, :], root[..., None] * right
    if split == "left":
        return left * singular_values[..., None, :], right
    return left, singular_values[..., None] * right


@torch.no_grad()
def product_svd(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin SVD P, S, Q of a product without forming it, from QR of both factors.

    Args:
        left: (..., rows, r).
        right: (..., r, columns).

    Returns:
        P (..., rows, K), S (..., K) descending, Q (..., K, columns), K = min(r, rows, columns), in
        float32 at least.

    Raises:
        ValueError: NaN or infinite values.
    """
    for factor, name in ((left, "left"), (right, "right")):
        refuse_infinite(factor, name)
    # r may exceed a side: the triangular factors are then wide, and their product still small.
    base_left, triangle_left = torch.linalg.qr(at_least_float32(left))
    base_right, triangle_right = torch.linalg.qr(at_least_float32(right).mT)
    core_left, values, core_right = torch.linalg.svd(
        triangle_left @ triangle_right.mT, full_matrices=False
    )
    return base_left @ core_left, values, core_right @ base_right.mT


def rebalance(left: Tensor, right: Tensor, *, split: Split = "balanced") -> tuple[Tensor, Tensor]:
    """Return factors with the same product that are orthogonal, ordered and of equal norms.

    Args:
        left: (..., rows, r).
        right: (..., r, columns).
        split: As in `weighted_svd`.

    Returns:
        (..., rows, K) and (..., K, columns), K = min(r, rows, columns), in their dtypes.
    """
    new_left, values, new_right = product_svd(left, right)
    new_left, new_right = balanced_factors(new_left, values, new_right, split=split)
    return new_left.to(left.dtype), new_right.to(right.dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half-precision tensors in float32, others as they are: no SVD runs in half."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def refuse_infinite(tensor: Tensor, name: str) -> None:
    """Refuse what an SVD would answer with an error far from its cause.

    Raises:
        ValueError: naming the argument.
    """
    if tensor.is_meta or torch.isfinite(tensor.sum()):
        return  # one pass: NaN and infinities stay in a sum, which finite numbers may leave too
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds NaN or infinite values, which have no decomposition")


def refuse_diverged(name: str, step: int, *tensors: Tensor) -> None:
    """Refuse to let a method act on a weight that training has ruined.

    Raises:
        ValueError: NaN or infinite values, with the weight's name and the step.
    """
    for tensor in tensors:
        if not tensor.is_meta and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{name} holds NaN or infinite values after {step} steps; lower the learning rate, "
                f"or clip the gradients"
            )


def _output_moment(matrix: Tensor, moment: Tensor, damping: float) -> Tensor:
    """Return W (R + δ mean(diag R) I) Wᵀ."""
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    if (mean < 0).any():
        raise ValueError("right_moment has a negative trace; a moment has none")
    return matrix @ moment @ matrix.mT + damping * mean * (matrix @ matrix.mT)


def _svd(
    matrix: Tensor, rank: int, method: str, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return P, S, Q: all of them, or the first `rank` with "randomized"."""
    if method == "exact":
        return torch.linalg.svd(matrix, full_matrices=False)
    if method != "randomized":
        raise ValueError(f"method must be 'exact' or 'randomized', got {method!r}")
    if generator is None:
        raise ValueError(
            "method='randomized' needs generator=, a torch.Generator with a seed, so that a result "
            "can be had again"
        )
    sketch = min(rank + OVERSAMPLING, *matrix.shape[-2:])
    shape = (*matrix.shape[:-2], matrix.shape[-1], sketch)
    draw = torch.randn(shape, generator=generator, device=generator.device, dtype=matrix.dtype)
    base = torch.linalg.qr(matrix @ draw.to(matrix.device)).Q
    for _ in range(POWER_ITERATIONS):
        base = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ base).Q).Q
    left, values, right = torch.linalg.svd(base.mT @ matrix, full_matrices=False)
    return (base @ left)[..., :rank], values[..., :rank], right[..., :rank, :]
