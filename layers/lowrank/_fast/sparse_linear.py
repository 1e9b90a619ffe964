"""x Wᵀ + bias for W = s left right + S, which keeps no W for the backward pass.

S is zero outside a support of n entries. With g = dL/dy and G = gᵀ x of the shape of W there are
two ways to the same numbers. Through the whole matrix, W and G exist one at a time and go again:

    y = x Wᵀ,   dx = g W,   d left = s G rightᵀ,   d right = s leftᵀ G,   d values = G[support]

Apart, neither ever exists, and S acts as a sparse matrix:

    y = s (x rightᵀ) leftᵀ + x Sᵀ,            dx = s (g left) right + g S,
    d left = s gᵀ (x rightᵀ),                 d right = s (g left)ᵀ x,
    d values = (gᵀ x)[support], a dot product of columns for each entry

The matrix costs 4 r · rows · columns products whatever the batch, so a wide layer multiplies few
rows apart: a step of a layer of 1,024 to 1,024 values with 256 rows, r = 256 and n = 3 % of W then
takes 1.2 times as long as a dense one on one CPU thread, through the matrix 2.2 times. With more
rows, or narrower, products with a sparse matrix cost more than they save; a GPU is untried.

Source: the way through the matrix is that of Han et al. 2024, "SLTrain", arXiv:2406.02214; the
other has no source.
"""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...fast_path import (
    differentiates_backward,
    differentiates_forward,
    is_transformed,
    one_plain_dtype,
    records_gradients,
    through_definition,
)

__all__ = ["ApartLinear", "SparseLinear", "sparse_linear", "sparse_plus_low_rank"]

# Where the sparse matrix was found to pay, on one CPU thread: rows of x over the smaller side of W,
# that side, and the share of W that the support has.
FEW, WIDE, SPARSE = 0.5, 512, 0.05


def sparse_plus_low_rank(
    left: Tensor, right: Tensor, values: Tensor, index: Tensor, scale: float
) -> Tensor:
    """Return W = scale · left right, with values added at flat positions.

    Args:
        left: (..., rows, r).
        right: (..., r, columns).
        values: (n,), or a column (n, 1).
        index: (n,), positions in the flattened W.
        scale: s.
    """
    product = (scale * left) @ right  # of the factors, the one that is scaled is small
    values = values.flatten().to(product.dtype)  # autocast makes it half
    if is_transformed():  # vmap changes no tensor that has fewer dimensions than what is added
        return product.flatten().index_add(0, index, values).view(product.shape)
    product.view(-1).index_add_(0, index, values)
    return product


def sparse_linear(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    values: Tensor,
    index: Tensor,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Return x Wᵀ + bias by the faster way; where no gradient is recorded, through the matrix.

    Args:
        x: (..., columns).
        left: (rows, r).
        right: (r, columns).
        values: (n,), or a column (n, 1).
        index: (n,), positions in the flattened W, ascending.
        bias: (rows,) or None.
        scale: s.
    """
    if differentiates_forward():  # neither way carries tangents
        weight = sparse_plus_low_rank(left, right, values, index, scale)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    apart = torch.is_grad_enabled() and records_gradients() and _suits(x, left, right, values, bias)
    way = ApartLinear if apart else SparseLinear
    return way.apply(x, left, right, values, index, bias, scale)  # type: ignore[no-any-return]


class SparseLinear(torch.autograd.Function):
    """Through the matrix, the definition."""

    # All parts of W may have a leading dimension, or none: W is changed in place.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        left: Tensor,
        right: Tensor,
        values: Tensor,
        index: Tensor,
        bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        """Build W, multiply, and let go of it."""
        weight = sparse_plus_low_rank(left, right, values, index, scale)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep x and the parts."""
        *tensors, bias, scale = inputs
        ctx.save_for_backward(*tensors)
        ctx.scale = scale
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Build W again for the gradient of x, and that of W for those of its parts."""
        x, left, right, values, index = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, left.shape[0])
        d_x = d_left = d_right = d_values = d_bias = None
        if ctx.needs_input_grad[0]:
            weight = sparse_plus_low_rank(left, right, values, index, ctx.scale)
            d_x = (gradient @ weight.to(gradient.dtype)).view(x.shape)
            del weight  # before the gradient of the same size is made
        whole = (gradient.mT @ x.reshape(-1, x.shape[-1])).to(left.dtype)
        if ctx.needs_input_grad[1]:
            d_left = (whole @ right.mT) * ctx.scale
        if ctx.needs_input_grad[2]:
            d_right = (left.mT @ whole) * ctx.scale
        if ctx.needs_input_grad[3]:
            d_values = whole.view(-1).index_select(0, index).to(values.dtype).view(values.shape)
        if ctx.bias_dtype is not None:
            d_bias = gradient.sum(0).to(ctx.bias_dtype)
        return d_x, d_left, d_right, d_values, None, d_bias, None


class ApartLinear(torch.autograd.Function):
    """Without the matrix, on the CPU; its second derivatives are those of `SparseLinear`."""

    @staticmethod
    def forward(
        x: Tensor,
        left: Tensor,
        right: Tensor,
        values: Tensor,
        index: Tensor,
        bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        """Add the products of the factors and of the sparse matrix."""
        flat = x.reshape(-1, x.shape[-1])
        y = F.linear(flat @ right.mT, scale * left, bias)
        y += (_compressed(values, index, left.shape[0], right.shape[1]) @ flat.mT).mT
        return y.view(*x.shape[:-1], left.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep x and the parts."""
        *tensors, _, scale = inputs
        ctx.save_for_backward(*tensors)
        ctx.scale = scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the factors first, whichever way."""
        x, left, right, values, index = ctx.saved_tensors
        rows, columns = left.shape[0], right.shape[1]
        gradient, flat = gradients[0].reshape(-1, rows), x.reshape(-1, columns)
        d_bias = gradient.sum(0) if ctx.needs_input_grad[5] else None
        if differentiates_backward(*gradients):
            inputs = (x, left, right, values, index, None, ctx.scale)
            found = through_definition(SparseLinear.apply, inputs, gradients[0])
            return (*found[:5], d_bias, None)
        d_x = d_left = d_right = d_values = None
        hidden, turned = ctx.scale * (gradient @ left), gradient.mT.contiguous()
        if ctx.needs_input_grad[0]:
            d_x = hidden @ right
            d_x += (_transposed(values, index, rows, columns) @ turned).mT
            d_x = d_x.view(x.shape)
        if ctx.needs_input_grad[1]:
            d_left = turned @ (ctx.scale * (flat @ right.mT))
        if ctx.needs_input_grad[2]:
            d_right = hidden.mT @ flat
        if ctx.needs_input_grad[3]:
            support = _compressed(values, index, rows, columns)
            d_values = torch.sparse.sampled_addmm(support, turned, flat, beta=0.0).values()
            d_values = d_values.view(values.shape)
        return d_x, d_left, d_right, d_values, None, d_bias, None


def _suits(x: Tensor, left: Tensor, right: Tensor, values: Tensor, bias: Tensor | None) -> bool:
    """Whether the shapes are those for which products with a sparse matrix were found to pay."""
    given = [x, left, right, values] if bias is None else [x, left, right, values, bias]
    if left.dim() != 2 or not one_plain_dtype(*given) or not torch.backends.mkl.is_available():
        return False
    rows, columns = left.shape[0], right.shape[1]
    side = min(rows, columns)
    few = x.numel() <= FEW * side * columns
    return few and side >= WIDE and len(values) <= SPARSE * rows * columns


@functools.cache
def _take_warning() -> None:
    """Let torch say here, unheard, what it says once a process: that such matrices are new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        torch.eye(1).to_sparse_csr()


def _compressed(values: Tensor, index: Tensor, rows: int, columns: int) -> Tensor:
    """Return S in compressed rows."""
    _take_warning()
    starts = torch.arange(0, rows * columns + 1, columns, dtype=index.dtype)
    starts = torch.searchsorted(index, starts, out_int32=index.dtype == torch.int32)
    return torch.sparse_csr_tensor(
        starts, index % columns, values.flatten(), (rows, columns), check_invariants=False
    )


def _transposed(values: Tensor, index: Tensor, rows: int, columns: int) -> Tensor:
    """Return Sᵀ in compressed rows."""
    row = index.div(columns, rounding_mode="floor")
    swapped, order = ((index - columns * row) * rows + row).sort()
    return _compressed(values[order], swapped, columns, rows)
