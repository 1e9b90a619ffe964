"""Products with a sparse matrix whose rows, and those of its transpose, were sorted before.

A row's entries lie side by side, so that a product is torch's bag of embeddings: the entries of a
row are looked up, weighed and summed in one pass and in a fixed order. The gradient is the product
with the transpose, which is sorted too.
"""

# Shape letters: N nodes, M entries, D channels.

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, records_gradients
from ..adjacency import Neighbours, neighbour_sum, shares_of

__all__ = ["SparseMatrix", "fused_sum", "kept_shares", "matrix_of", "prepared", "product"]


class SparseRows(NamedTuple):
    """Entries by row: those of row i are `offsets[i]` to `offsets[i + 1]`."""

    column: Tensor
    offsets: Tensor
    weight: Tensor


class SparseMatrix(NamedTuple):
    """The rows of a matrix and those of its transpose."""

    rows: SparseRows
    columns: SparseRows

    @property
    def transposed(self) -> "SparseMatrix":
        """The transpose."""
        return SparseMatrix(self.columns, self.rows)


class Prepared:
    """What a table of neighbours keeps for speed: the sorted matrix, and the table of its shares.

    Args:
        matrix: Â.
    """

    def __init__(self, matrix: SparseMatrix) -> None:
        """Keep the matrix."""
        self.matrix = matrix
        self.shares: Neighbours | None = None


def prepared(neighbours: Neighbours, num_nodes: int) -> Neighbours:
    """Return the same table with its rows sorted; entries of weight 0 are left out."""
    source, target, weight, _ = neighbours
    there = weight != 0
    source, target, weight = source[there], target[there], weight[there]
    rows = _by_row(target, source, weight, num_nodes)
    columns = _by_row(source, target, weight, num_nodes)
    return neighbours._replace(cache=Prepared(SparseMatrix(rows, columns)))


def _by_row(row: Tensor, column: Tensor, weight: Tensor, size: int) -> SparseRows:
    order = (row * size + column).argsort()
    offsets = torch.zeros(size + 1, dtype=torch.int64, device=row.device)
    offsets[1:] = torch.bincount(row, minlength=size).cumsum(0)
    return SparseRows(column[order], offsets, weight[order])


def kept_shares(neighbours: Neighbours) -> Neighbours | None:
    """The result of `shares_of`, divided once a table, or None where it is not kept."""
    cache = neighbours.cache
    if cache is None or not records_gradients(neighbours.weight):
        return None
    if cache.shares is None:
        with torch.inference_mode(False), torch.no_grad():
            size = len(cache.matrix.rows.offsets) - 1
            cache.shares = prepared(shares_of(neighbours), size)
    return cache.shares


def matrix_of(neighbours: Neighbours, *tensors: Tensor) -> SparseMatrix | None:
    """The sorted matrix of a table, or None where it may not be used on features (N, D)."""
    if neighbours.cache is None or not records_gradients(*tensors):
        return None
    matrix, (first, *_) = neighbours.cache.matrix, tensors
    weight = matrix.rows.weight
    fits = (
        first.dim() == 2
        and first.numel() > 0
        and len(first) == len(matrix.rows.offsets) - 1
        and first.dtype == weight.dtype
        and first.device == weight.device
        and first.device.type in ("cpu", "cuda")
    )
    return matrix if fits else None


def product(matrix: SparseMatrix, h: Tensor) -> Tensor:
    """Multiply (N, D); nothing is recorded."""
    column, offsets, weight = matrix.rows
    given = h.contiguous(), column, offsets, False, 0, False, weight, True, None
    return torch.embedding_bag(*given)[0]


def fused_sum(h: Tensor, neighbours: Neighbours) -> Tensor | None:
    """The result of `neighbour_sum`, or None where that must run."""
    matrix = matrix_of(neighbours, h)
    return None if matrix is None else _Sum.apply(h, neighbours, matrix)  # type: ignore[return-value]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, neighbours: Neighbours, matrix: SparseMatrix) -> Tensor:
        ctx.neighbours, ctx.matrix = neighbours, matrix
        return product(matrix, h)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        if differentiates_backward(gradient):
            return neighbour_sum(gradient, ctx.neighbours.transposed), None, None
        return product(ctx.matrix.transposed, gradient), None, None
