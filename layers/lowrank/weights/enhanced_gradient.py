"""The enhanced gradient of singular pairs, in which a vector's does not shrink with its value.

With W = U diag(σ) V and G the gradient of the loss in W,

    ∂σ_i = u_iᵀ G v_i,    ∂u_i = σ_i G v_i,    ∂v_i = σ_i Gᵀ u_i

The enhanced gradient leaves σ_i out of the last two, so that a pair of small σ learns its direction
as fast as one of large. Adam divides a constant factor out again; SGD and clipping do not.

Source: Zhao et al. 2024, "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural
Networks", arXiv:2405.15481.
Differs from it: nothing; forward differentiation has its transpose.
"""

# Shape letters: m rows, n columns, k pairs, r active pairs.

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...fast_path import differentiates_forward, is_transformed

__all__ = ["in_order", "spectral_linear", "spectral_matrix"]


def in_order(active: Tensor, waiting: Tensor, order: Tensor, dim: int) -> Tensor:
    """Put the vectors of both parts to their places among all k.

    Args:
        active: r vectors along dim.
        waiting: k - r vectors along dim.
        order: Places (k,) of the active ones, then of the others.
        dim: -1 for U, -2 for V.
    """
    both = torch.cat([active, waiting], dim)
    return torch.empty_like(both).index_copy(dim, order, both)


class EnhancedMatrix(torch.autograd.Function):
    """W, with the enhanced gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        left: Tensor,
        right: Tensor,
        sigma: Tensor,
        waiting_left: Tensor,
        waiting_right: Tensor,
        order: Tensor,
    ) -> Tensor:
        """Form W."""
        all_left = in_order(left, waiting_left, order, -1)
        return (all_left * sigma) @ in_order(right, waiting_right, order, -2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing but the parameters."""
        left, right, _, waiting_left, waiting_right, order = inputs
        ctx.save_for_backward(left, right, waiting_left, waiting_right, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of U_a, V_a and σ."""
        (gradient,) = gradients
        left, right, waiting_left, waiting_right, order = ctx.saved_tensors
        moved = gradient @ in_order(right, waiting_right, order, -2).mT
        d_sigma = (in_order(left, waiting_left, order, -1) * moved).sum(-2, keepdim=True)
        d_left = moved.index_select(-1, order[: left.shape[-1]])
        return d_left, left.mT @ gradient, d_sigma, None, None, None


class EnhancedTangent(EnhancedMatrix):
    """The same for forward differentiation too; `torch.compile` takes no function with a `jvp`.

    W moves by dU_a V_a + U_a dV_a + U diag(dσ) V, the transpose of the enhanced gradient.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the parameters for both directions."""
        EnhancedMatrix.setup_context(ctx, inputs, output)
        left, right, _, waiting_left, waiting_right, order = inputs
        ctx.save_for_forward(left, right, waiting_left, waiting_right, order)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """Return what W moves by; the waiting vectors count as constants, as in the gradient."""
        d_left, d_right, d_sigma, *_ = tangents
        left, right, waiting_left, waiting_right, order = ctx.saved_tensors
        all_left = in_order(left, waiting_left, order, -1)
        all_right = in_order(right, waiting_right, order, -2)
        parts = [] if d_sigma is None else [(all_left * d_sigma) @ all_right]
        parts += [] if d_left is None else [d_left @ right]
        parts += [] if d_right is None else [left @ d_right]
        return sum(parts[1:], parts[0]) if parts else torch.zeros_like(all_left @ all_right)


class EnhancedLinear(torch.autograd.Function):
    """x Wᵀ in two products, with the enhanced gradient; the gradient of x is the true one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        sigma: Tensor,
        waiting_left: Tensor,
        waiting_right: Tensor,
        order: Tensor,
    ) -> Tensor:
        """Return x Vᵀ diag(σ) Uᵀ; what is kept beside the parameters is x and x Vᵀ."""
        hidden = x @ in_order(right, waiting_right, order, -2).mT
        ctx.save_for_backward(
            x, hidden, left, right, sigma, waiting_left, waiting_right, order
        )  # fmt: skip
        return (hidden * sigma) @ in_order(left, waiting_left, order, -1).mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, U_a, V_a and σ."""
        (gradient,) = gradients
        x, hidden, left, right, sigma, waiting_left, waiting_right, order = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            hidden = x @ in_order(right, waiting_right, order, -2).mT  # it was kept without a graph
        active = order[: left.shape[-1]]
        moved = gradient @ in_order(left, waiting_left, order, -1)
        d_sigma = (moved * hidden).sum(0, keepdim=True)
        d_left = gradient.mT @ hidden.index_select(-1, active)
        d_right = moved.index_select(-1, active).mT @ x
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = (moved * sigma) @ in_order(right, waiting_right, order, -2)
        return d_x, d_left, d_right, d_sigma, None, None, None


def spectral_matrix(
    left: Tensor,
    right: Tensor,
    sigma: Tensor,
    waiting_left: Tensor,
    waiting_right: Tensor,
    order: Tensor,
    *,
    enhanced: bool = True,
) -> Tensor:
    """Return W (..., m, n).

    Args:
        left: U_a (..., m, r).
        right: V_a (..., r, n).
        sigma: σ (..., 1, k), in the order of all pairs.
        waiting_left: (..., m, k - r).
        waiting_right: (..., k - r, n).
        order: Places (k,) among all pairs of the active ones, then of the waiting ones.
        enhanced: Whether the gradients of U_a and V_a leave σ out.
    """
    if enhanced:
        function = EnhancedTangent if differentiates_forward() else EnhancedMatrix
        return _apply(function, left, right, sigma, waiting_left, waiting_right, order)
    all_left = in_order(left, waiting_left, order, -1)
    return (all_left * sigma) @ in_order(right, waiting_right, order, -2)


def spectral_linear(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    sigma: Tensor,
    waiting_left: Tensor,
    waiting_right: Tensor,
    order: Tensor,
    *,
    enhanced: bool = True,
) -> Tensor:
    """Return x Wᵀ (..., m) for x (..., n); arguments as in `spectral_matrix`.

    W is formed only under the transforms of `torch.func` and in forward differentiation.
    """
    parts = left, right, sigma, waiting_left, waiting_right, order
    if enhanced and is_transformed():
        return F.linear(x, spectral_matrix(*parts))
    rows = x.reshape(-1, x.shape[-1])
    if enhanced:
        y = _apply(EnhancedLinear, rows, *parts)
    else:
        hidden = F.linear(rows, in_order(right, waiting_right, order, -2))
        y = F.linear(hidden * sigma, in_order(left, waiting_left, order, -1))
    return y.view(*x.shape[:-1], y.shape[-1])


def _apply(function: type[torch.autograd.Function], *tensors: Tensor) -> Tensor:
    return function.apply(*tensors)  # type: ignore[return-value]
