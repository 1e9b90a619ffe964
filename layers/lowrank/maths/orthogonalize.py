"""Nearly orthonormal matrix with the singular vectors of another one, by Newton and Schulz.

    X ← X / |X|,    then five times    X ← a X + (b A + c A²) X,    A = X Xᵀ

Every singular value σ goes through p(σ) = a σ + b σ³ + c σ⁵, and the vectors stay. With these
coefficients what is not near zero ends between 0.68 and 1.14, and never converges to 1.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
Differs from it: float32 at least, where Muon takes bfloat16.
"""

import torch
from torch import Tensor

__all__ = ["orthogonalize"]

COEFFICIENTS = 3.4445, -4.7750, 2.0315


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return a matrix (m, n) with singular values near 1, in the dtype of the given one.

    Args:
        matrix: Shape (m, n); zeros stay zeros.
        steps: Times that the polynomial is applied.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).to(torch.promote_types(matrix.dtype, torch.float32))
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + torch.finfo(x.dtype).tiny)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)
