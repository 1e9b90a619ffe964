"""Centres of mass of neighbourhoods, with their gradient written by hand.

With P the shares of neighbours, q = ‖s‖², X = √(1 + cq), h = q/(1 + X), S = P s, n = P h and
f = (1 + cn)² − c‖S‖², out = S/√f. With G the gradient of out and K = ⟨G, S⟩ f^(−3/2) [f > 1]

    dS = G/√f + cK S,    dn = −cK (1 + cn)
    ds = Pᵀ dS + (Pᵀ dn)/X s
    dc = −½ Σ K (2n (1 + cn) − ‖S‖²) − Σ (Pᵀ dn) h²/(2X)

The heights are multiplied beside the points and not as one more channel of them, which would copy
both and start rows off the boundaries of cache lines.
"""

from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, through_definition
from ..adjacency import Neighbours
from ..centroids import centroids_of_shares
from .sparse_rows import SparseMatrix, matrix_of, product

__all__ = ["fused_centroids"]

Curvature = float | Tensor


def fused_centroids(s: Tensor, shares: Neighbours, curvature: Curvature) -> Tensor | None:
    """The result of `centroids_of_shares`, or None where that must run."""
    matrix = matrix_of(shares, s)
    one = not isinstance(curvature, Tensor) or (
        curvature.dim() == 0 and (curvature.dtype, curvature.device) == (s.dtype, s.device)
    )
    if matrix is None or not one:
        return None
    return _Centroids.apply(s, shares, matrix, curvature)  # type: ignore[return-value]


def _square(s: Tensor) -> Tensor:
    """Return ‖s‖² in one pass that writes nothing else."""
    return torch.linalg.vector_norm(s, dim=-1, keepdim=True).square_()


def _spread(space: Tensor, n: Tensor, c: float) -> Tensor:
    """Return f, held at 1."""
    return (n * (2 + c * n)).sub_(_square(space)).mul_(c).add_(1).clamp_min_(1.0)


class _Centroids(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, s: Tensor, shares: Neighbours, matrix: SparseMatrix, curvature: Curvature
    ) -> Tensor:
        tensor = isinstance(curvature, Tensor)
        c: float = curvature.item() if tensor else curvature
        square = _square(s)
        height = square.div_((c * square).add_(1).sqrt_().add_(1))
        space, n = product(matrix, s), product(matrix, height)
        ctx.number, ctx.shares, ctx.matrix = c, shares, matrix
        scale = _spread(space, n, c).rsqrt_()
        ctx.save_for_backward(s, height, space, n, scale, curvature if tensor else None)
        return space * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        s, height, space, n, scale, curvature = ctx.saved_tensors
        c = ctx.number
        if differentiates_backward(gradient):
            found = through_definition(
                lambda s, curvature: centroids_of_shares(s, ctx.shares, curvature),
                (s, c if curvature is None else curvature),
                gradient,
            )
            return found[0], None, None, found[1]
        # Where f is held at 1 it does not move.
        along = (gradient * space).sum(-1, keepdim=True).mul_(scale**3).mul_(scale < 1)
        late = c * n + 1
        dspace = (gradient * scale).addcmul_(space, along, value=c)
        dn = (along * late).mul_(-c)
        ds, dheight = (product(ctx.matrix.transposed, each) for each in (dspace, dn))
        turn = dheight.div_((c * height).add_(1))
        ds.addcmul_(s, turn)
        if curvature is None:
            return ds, None, None, None
        slope = (2 * n * late).sub_(_square(space)).mul_(along).sum()
        slope = slope + (turn * height.square()).sum()
        return ds, None, None, (-0.5 * slope).view_as(curvature)
