"""A matrix of norm below 1 from any matrix, by one Cholesky factor: the brick of the LDLᵀ blocks.

    N Nᵀ = I + K Kᵀ,   Q = N⁻¹ K,   so that   I − Q Qᵀ = (Nᵀ N)⁻¹ > 0.

N is lower triangular. The two products must not be mixed: (N Nᵀ)⁻¹ in place of (Nᵀ N)⁻¹ breaks
every bound built on it as soon as the width exceeds 1. The map is onto: each Q with ‖Q‖ < 1 comes
from one K.

Source: the factor is that of Juston et al. 2025, arXiv:2512.05915, as derived anew here.
Differs from it: I is exact up to `slack`, some roundings of K Kᵀ, which keeps the bound true at any
gain; complex matrices and leading axes are allowed; the
backward pass is written out, two products and one triangular solve.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["bounded", "contraction", "solve_left", "solve_right", "uncontract"]


def solve_left(n: Tensor, x: Tensor) -> Tensor:
    """Return N⁻¹ X for a lower triangular N."""
    return torch.linalg.solve_triangular(n, x, upper=False)


def solve_right(x: Tensor, n: Tensor) -> Tensor:
    """Return X N⁻ᴴ for a lower triangular N."""
    return torch.linalg.solve_triangular(n.mH, x, upper=True, left=False)


def plus_identity(gram: Tensor, extra: Tensor | float = 0.0) -> Tensor:
    """Return (1 + extra) I + G."""
    return gram + (1 + extra) * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


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


class _Contraction(torch.autograd.Function):
    """K -> (Q, N). Backward: K̄ = N⁻ᴴ (Q̄ + S Q) with S the lower half of Nᴴ N̄ − Q̄ Qᴴ, mirrored."""

    @staticmethod
    def forward(k: Tensor) -> tuple[Tensor, Tensor]:
        gram = k @ k.mH
        extra = slack(gram, sum(k.shape[-2:]))[..., 0]
        gram.diagonal(dim1=-2, dim2=-1).add_(1 + extra)
        n = torch.linalg.cholesky(gram)
        return solve_left(n, k), n

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        q, n = ctx.saved_tensors
        of_q, of_n = grads
        if of_q is None and of_n is None:
            return None
        # What N̄ holds above its diagonal stays above it in Nᴴ N̄, and is dropped below.
        half = torch.zeros_like(n) if of_n is None else n.mH @ of_n
        half = (half if of_q is None else half - of_q @ q.mH).tril()
        mirrored = half + half.mH
        mirrored.diagonal(dim1=-2, dim2=-1).mul_(0.5)
        inner = mirrored @ q if of_q is None else of_q + mirrored @ q
        return torch.linalg.solve_triangular(n.mH, inner, upper=True)


def contraction(k: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q = N⁻¹ K and the lower triangular N with N Nᴴ = I + K Kᴴ.

    Args:
        k: K (…, R, S), real or complex; float64 for widths and gains that matter.

    Returns:
        Q (…, R, S) with ‖Q‖ < 1, and N (…, R, R).
    """
    q, n = _Contraction.apply(k)  # type: ignore[misc]
    return q, n


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
