"""A matrix of norm below 1 from any matrix, by one Cholesky factor: the brick of the LDLᵀ blocks.

    N Nᵀ = I + K Kᵀ,   Q = N⁻¹ K,   so that   I − Q Qᵀ = (Nᵀ N)⁻¹ > 0.

N is lower triangular. The two products must not be mixed: (N Nᵀ)⁻¹ in place of (Nᵀ N)⁻¹ breaks
every bound built on it as soon as the width exceeds 1. The map is onto: each Q with ‖Q‖ < 1 comes
from one K.

Source: the factor is that of Juston et al. 2025, arXiv:2512.05915, as derived anew here.
Differs from it: I is exact up to `slack`, some roundings of K Kᵀ, which keeps the bound true at any
gain; complex matrices and leading axes are allowed; the backward pass is written out, two products
and one triangular solve; only the triangle of K Kᵀ that is read is computed.
"""

from typing import Any

import torch
from torch import Tensor

from ...fast_path import is_transformed

STRIP, LEAF = 128, 250
"""Rows of the strips of a product of which the lower triangle is used, and rows up to which a
Cholesky factor is taken at once: LAPACK's is slow where rows are a power of two apart in memory."""

__all__ = [
    "bounded",
    "contract",
    "contraction",
    "contraction_backward",
    "solve_left",
    "solve_right",
    "uncontract",
]


def solve_left(n: Tensor, x: Tensor) -> Tensor:
    """Return N⁻¹ X for a lower triangular N."""
    return torch.linalg.solve_triangular(n, x, upper=False)


def solve_right(x: Tensor, n: Tensor) -> Tensor:
    """Return X N⁻ᴴ for a lower triangular N."""
    return torch.linalg.solve_triangular(n.mH, x, upper=True, left=False)


def _solve_rows(n: Tensor, x: Tensor, *, upper: bool = False, in_place: bool = False) -> Tensor:
    """Return N⁻¹ X as the transpose of Xᵀ N⁻ᵀ, which reads rows in the order of memory."""
    out = x.mT if in_place and not torch.compiler.is_compiling() else None
    return torch.linalg.solve_triangular(n.mT, x.mT, upper=not upper, left=False, out=out).mT


def slack(gram: Tensor, terms: int) -> Tensor:
    """Return what to add to the diagonal of I + G so that its rounding cannot make a bound false.

    Large matrices leave I below the last digits of G. A little more than I only lowers the weights
    that the inverse factor scales, so whatever is built on it still holds.

    Args:
        gram: G ≥ 0 (…, R, R), a sum of products.
        terms: How many roundings an entry of G and of its factor takes.
    """
    trace = torch.real(gram.detach().diagonal(dim1=-2, dim2=-1)).sum(-1)
    return (terms * torch.finfo(gram.dtype).eps / 2 * trace)[..., None, None]


def _lower_product(x: Tensor, y: Tensor) -> Tensor:
    """Return X Yᴴ, without a graph only up to what stands above its diagonal."""
    rows = x.shape[-2]
    if rows <= STRIP or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return x @ y.mH
    product = x.new_empty(*x.shape[:-1], rows)
    for start in range(0, rows, STRIP):
        strip, end = slice(start, start + STRIP), slice(None, start + STRIP)
        torch.matmul(x[..., strip, :], y[..., end, :].mH, out=product[..., strip, end])
    return product


def _cholesky_(gram: Tensor) -> None:
    """Replace a matrix, given by its lower triangle, by its Cholesky factor; by unequal halves."""
    if gram.shape[-1] <= LEAF:
        gram.copy_(torch.linalg.cholesky(gram))
        return
    half = gram.shape[-1] // 2 + 8
    head, side, tail = gram[..., :half, :half], gram[..., half:, :half], gram[..., half:, half:]
    _cholesky_(head)
    side.copy_(solve_right(side, head))
    tail -= side @ side.mH
    _cholesky_(tail)
    gram[..., :half, half:] = 0


def contract(k: Tensor, *, in_place: bool = False) -> tuple[Tensor, Tensor]:
    """Return what `contraction` does, without a graph; in place, K is replaced by Q."""
    gram = _lower_product(k, k)
    extra = slack(gram, sum(k.shape[-2:]))[..., 0]
    gram.diagonal(dim1=-2, dim2=-1).add_(1 + extra)
    _cholesky_(gram)
    return _solve_rows(gram, k, in_place=in_place), gram


def contraction_backward(q: Tensor, n: Tensor, of_q: Tensor | None, of_n: Tensor | None) -> Tensor:
    """Return K̄ = N⁻ᴴ (Q̄ − S Q), S the lower half of Q̄ Qᴴ − Nᴴ N̄, mirrored.

    Args:
        q: Q.
        n: N.
        of_q: Q̄, or None for zero; not both.
        of_n: N̄, or None for zero.
    """
    # What N̄ holds above its diagonal stays above it in Nᴴ N̄, and is dropped below.
    half = None if of_q is None else _lower_product(of_q, q)
    if of_n is not None:
        half = -(n.mH @ of_n) if half is None else half - n.mH @ of_n
    assert half is not None
    half.tril_().diagonal(dim1=-2, dim2=-1).mul_(0.5)
    inner = ((half + half.mH) @ q).neg_()
    inner = inner if of_q is None else inner.add_(of_q)
    return _solve_rows(n.mH, inner, upper=True, in_place=not torch.is_grad_enabled())


class _Contraction(torch.autograd.Function):
    """K -> (Q, N)."""

    @staticmethod
    def forward(k: Tensor) -> tuple[Tensor, Tensor]:
        return contract(k.contiguous())  # the same numbers for any layout

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        of_q, of_n = grads
        if of_q is None and of_n is None:
            return None
        q, n = ctx.saved_tensors
        return contraction_backward(q, n, of_q, of_n)


def contraction(k: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q = N⁻¹ K and the lower triangular N with N Nᴴ = I + K Kᴴ.

    Args:
        k: K (…, R, S), real or complex; float64 for widths and gains that matter.

    Returns:
        Q (…, R, S) with ‖Q‖ < 1, and N (…, R, R).
    """
    # Transforms of torch.func, and forward differentiation, take definitions alone.
    if is_transformed():
        return _definition(k)
    q, n = _Contraction.apply(k)  # type: ignore[misc]
    return q, n


def _definition(k: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `contraction` does, in operators that have every derivative and vmap rule."""
    gram = k @ k.mH
    eye = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device)
    n = torch.linalg.cholesky(gram + eye + slack(gram, sum(k.shape[-2:])) * eye)
    return solve_left(n, k), n


def bounded(k: Tensor) -> Tensor:
    """Return a matrix of K's shape and of norm below 1, from a Cholesky factor of its small side.

    That is Q where K is wide, and the transpose of the Q of Kᵀ where it is tall.
    """
    if k.shape[-2] > k.shape[-1]:
        return contraction(k.mH)[0].mH
    return contraction(k)[0]


def uncontract(q: Tensor, name: str = "Q") -> tuple[Tensor, Tensor]:
    """Return the K and N of a Q with ‖Q‖ < 1: the inverse of `contraction`.

    N⁻¹ is the Cholesky factor of I − Q Qᴴ, and K = N Q.

    Args:
        q: Q (…, R, S).
        name: What to call it in the message.

    Raises:
        ValueError: ‖Q‖ ≥ 1, up to rounding.
    """
    eye = torch.eye(q.shape[-2], dtype=q.dtype, device=q.device)
    inverse, info = torch.linalg.cholesky_ex(eye - q @ q.mH)
    if bool((info != 0).any()):
        norm = float(torch.linalg.matrix_norm(q.detach(), 2).max())
        raise ValueError(
            f"{name} has norm {norm:.12g}, so the block is not strictly certified at this "
            f"Lipschitz bound; raise the bound or scale the weights"
        )
    return solve_left(inverse, q), solve_left(inverse, eye.expand_as(inverse))
