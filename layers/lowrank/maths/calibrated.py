"""Published decompositions as cases of one: the weighted SVD, with the moment that each one takes.

    case                 R of min tr[(W - X) R (W - X)ᵀ]     source
    svd                  I                                   Eckart and Young 1936
    asvd                 diag((E|x_j|)^{2α}), α = ½          Yuan et al. 2023, arXiv:2312.05821
    fwsvd                diag(mean over outputs of F)        Hsu et al. 2022, arXiv:2207.00112
    svd_llm              E[x xᵀ]                             Wang et al. 2024, arXiv:2403.07378
    feature_mimicking    Cov(x), and the bias is corrected   Yu and Wu 2023, and arXiv:2405.18146
    eora                 E[x xᵀ], of the residual W - Ŵ      Liu et al. 2024, arXiv:2410.21271

F is the mean squared gradient of W. `feature_mimicking`, published as the principal components of
the outputs, is the same as weighting by the covariance of the inputs:

    X = E Eᵀ W,   b' = E Eᵀ b + (I - E Eᵀ) E[y] = b + (W - X) E[x]     E: top eigenvectors of Cov(y)

Differs from them: singular moments are damped instead of shifted until a Cholesky factor exists,
and not at all where the moments are those of outputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .decompose import Decomposition, row_side_svd, weighted_svd
from .moments import InputMoments, Moments, OutputMoments

__all__ = ["CASES", "Calibrated", "activation_aware", "calibrated_svd", "compensate", "refit_left"]

DAMPING = 1e-6


class Calibrated(NamedTuple):
    """Factors of a weight, the bias that belongs to them, and the weighted singular values."""

    left: Tensor
    right: Tensor
    bias: Tensor | None
    singular_values: Tensor


def activation_aware(moments: Moments, alpha: float = 0.5) -> Tensor:
    """Return the diagonal (E|x_j|)^{2α} (..., n)."""
    return moments.mean_magnitude ** (2 * alpha)


def fisher_weighted(moments: InputMoments | OutputMoments) -> Tensor:
    """Return the mean over the outputs of the squared gradients, (..., n).

    Raises:
        ValueError: moments that were taken without them.
    """
    if moments.fisher is None:
        raise ValueError("fwsvd needs squared gradients; collect_moments with fisher=True")
    return moments.fisher.mean(-2)


CASES: dict[str, Callable[[InputMoments | OutputMoments], Tensor]] = {
    "svd": lambda moments: torch.ones_like(moments.total),
    "asvd": activation_aware,
    "fwsvd": fisher_weighted,
    "svd_llm": lambda moments: moments.second_moment,
    "feature_mimicking": lambda moments: moments.covariance,
}
"""The moment of the inputs (..., n, n), or its diagonal (..., n), that a case weights by; for EoRA
see `compensate`. `OutputMoments` give that of the outputs instead of the moment of the inputs."""


@torch.no_grad()
def calibrated_svd(
    matrix: Tensor,
    rank: int | None,
    case: str,
    moments: InputMoments | OutputMoments,
    *,
    bias: Tensor | None = None,
    damping: float = DAMPING,
    **options: Any,
) -> Calibrated:
    """Return factors of a weight, the best of their rank for data as a published method sees it.

    Args:
        matrix: W (..., rows, columns) of a linear map, or of a convolution unfolded by `channel`.
        rank: r, or None for all.
        case: A key of `CASES`.
        moments: Of the layer's inputs, or of what W makes of them.
        bias: (all rows,) or None. "feature_mimicking" makes one where there is none.
        damping: As in `weighted_svd`.
        **options: Of `weighted_svd`.

    Raises:
        ValueError: an unknown case, moments of another matrix, and all that `weighted_svd` refuses.
    """
    if case not in CASES:
        raise ValueError(f"case must be one of {sorted(CASES)}, got {case!r}")
    left, right, values = _weighted(matrix, rank, CASES[case](moments), moments, damping, options)
    if case == "feature_mimicking":
        error = matrix.double() - left.double() @ right.double()
        shift = (error @ moments.mean.to(error)[..., None]).flatten().to(matrix.dtype)
        bias = shift if bias is None else bias + shift
    return Calibrated(left, right, bias, values)


def compensate(
    dense: Tensor,
    compressed: Tensor,
    moments: InputMoments | OutputMoments,
    rank: int,
    *,
    damping: float = DAMPING,
    **options: Any,
) -> Decomposition:
    """Return the factors that, added to a compressed weight, best restore the outputs (EoRA).

    The mean squared error that is left is the sum of the squared singular values beyond the rank.

    Args:
        dense: W (..., rows, columns).
        compressed: Ŵ, pruned, quantised or truncated.
        moments: Of the inputs that the compressed layer sees, or of what W - Ŵ makes of them.
        rank: r.
        damping: As in `weighted_svd`.
        **options: Of `weighted_svd`.
    """
    residual = dense - compressed
    return _weighted(residual, rank, moments.second_moment, moments, damping, options)


def _weighted(
    matrix: Tensor,
    rank: int | None,
    moment: Tensor,
    moments: InputMoments | OutputMoments,
    damping: float,
    options: dict[str, Any],
) -> Decomposition:
    """Decompose by a moment of inputs or of outputs, as it is."""
    shape = matrix.shape[:-2] + matrix.shape[-1:]
    if moments.total.shape != shape:
        raise ValueError(
            f"moments are of another layer: they are of vectors {tuple(moments.total.shape)}, and "
            f"the matrix {tuple(matrix.shape)} takes {tuple(shape)}"
        )
    diagonal = moment.shape == moments.total.shape and moment.dim() < matrix.dim()
    if isinstance(moments, InputMoments) or diagonal:
        return weighted_svd(matrix, rank, right_moment=moment, damping=damping, **options)
    if not torch.equal(moments.matrix, matrix.detach().double()):
        raise ValueError(
            "moments are those of what another matrix makes of its inputs; collect them with "
            "matrices= of this one"
        )
    return row_side_svd(matrix, rank, moment, **options)


@torch.no_grad()
def refit_left(matrix: Tensor, right: Tensor, moment: Tensor) -> Tensor:
    """Return the left factor U that minimises tr[(W - U V) R (W - U V)ᵀ] for a given V.

    It changes nothing where V comes from the same R, and helps where the inputs have changed since,
    because layers before this one were compressed (the update of SVD-LLM).

    Args:
        matrix: W (..., rows, columns).
        right: V (..., r, columns).
        moment: R (..., columns, columns).

    Returns:
        (..., rows, r), in the dtype of W.
    """
    wide, v, moment = matrix.double(), right.double(), moment.double()
    gram = v @ moment @ v.mT
    return (wide @ moment @ v.mT @ torch.linalg.pinv(gram, hermitian=True)).to(matrix.dtype)
