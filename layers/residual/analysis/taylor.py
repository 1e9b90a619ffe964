"""Expansion of an additive stack by powers of a common factor of its branches. For analysis only.

    (id + λ F_L) ∘ … ∘ (id + λ F_1)(x) = Σ_{k=0}^{K} λ^k c_k + O(λ^(K+1))
    c_k = [λ^(k-1)] Σ_l F_l(Σ_i c_i λ^i),       with the c_i of the branches before l

so c_0 = x, c_1 = Σ_i F_i(x), c_2 = Σ_{i<j} DF_j(x)[F_i(x)]. `taylor_orders` takes smooth branches,
`linear_orders` linear ones, where λ^k c_k is the order E_k of `expansion`. Elsewhere the two agree
to leading order only: at λ³ two branches suffice for ½ D²F_j(x)[F_i(x), F_i(x)].

Source: Dherin & Munn 2025, "On residual network depth", arXiv:2510.03470, a submission that was
withdrawn after low scores; see `expansion` for what it does and does not say.
Differs from it: the remainder is not dropped but can be measured, by `Expansion.errors`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .orders import Branch, Expansion, last_order, tower

__all__ = ["linear_orders", "taylor_orders"]


def taylor_orders(branches: Sequence[Branch], x: Tensor, *, orders: int) -> Expansion:
    """Compute c_0, …, c_K of smooth branches.

    Coefficients are derivatives along the curve, each two backward passes through the one before,
    so the cost grows about threefold with an order. Branches must be made of operations that torch
    differentiates again and again. The fused `layer_norm` is not: from the second derivative along
    a curve on, its results are wrong, in silence (torch 2.14), since the statistics that it saves
    count as constant; write it out. Attention needs the math backend.

    Args:
        branches: F_1, …, F_L, with their norms and scales inside.
        x: Input of the stack (…), in float64.
        orders: The last power K, at least 0.

    Raises:
        ValueError: no branches, or orders < 0.
    """
    last_order(branches, None)
    if orders < 0:
        raise ValueError(f"orders must be at least 0, got {orders}")
    terms = [x.detach()] + [torch.zeros_like(x)] * orders
    for branch in branches:
        derived = _coefficients(branch, terms[:orders])
        terms = [terms[0], *(c + d for c, d in zip(terms[1:], derived, strict=True))]
    with torch.no_grad():
        output = tower(branches, x)
    return Expansion(torch.stack(terms), output, x.new_zeros(orders + 1))


def _coefficients(branch: Branch, curve: Sequence[Tensor]) -> list[Tensor]:
    """Return the Taylor coefficients of t -> F(Σ_i c_i t^i) at 0, as many as the curve has."""
    if not curve:
        return []
    with torch.enable_grad():
        t = curve[0].new_zeros((), requires_grad=True)
        point = curve[0] + 0 * t
        for i, c in enumerate(curve[1:], 1):
            point = point + c * t**i
        y = branch(point)
        found = [y.detach()]
        for k in range(1, len(curve)):
            y = _derivative(y, t) / k
            found.append(y.detach())
    return found


def _derivative(y: Tensor, t: Tensor) -> Tensor:
    """Return dy/dt for a number t: the backward pass is linear in what it is given."""
    if not y.requires_grad:
        return torch.zeros_like(y)
    u = torch.zeros_like(y, requires_grad=True)
    (back,) = torch.autograd.grad(y, t, u, create_graph=True, materialize_grads=True)
    if not back.requires_grad:
        return torch.zeros_like(y)
    return torch.autograd.grad(back, u, create_graph=True, materialize_grads=True)[0]


def linear_orders(branches: Sequence[Branch], x: Tensor, *, orders: int | None = None) -> Expansion:
    """Compute E_0, …, E_K for linear branches, by L K calls: c_k <- c_k + F_l(c_{k-1}).

    Branches frozen around a point, such as `lambda v: jvp(f, (at,), (v,))[1]`, are linear.

    Args:
        branches: F_1, …, F_L, linear, with no constant.
        x: Input of the stack (…).
        orders: The last order K, in 0, …, L; None is L.

    Raises:
        ValueError: no branches, orders out of range, or a branch with F(-2x) ≠ -2 F(x).
    """
    last = last_order(branches, orders)
    terms = [x] + [torch.zeros_like(x)] * last
    for i, branch in enumerate(branches):
        y = branch(x)
        if not torch.allclose(branch(-2 * x), -2 * y, rtol=0.0, atol=1e-6 * y.norm().item()):
            raise ValueError(f"branches[{i}] is not linear: F(-2x) differs from -2 F(x)")
        moved = [branch(c) for c in terms[:-1]]
        terms = [terms[0], *(c + d for c, d in zip(terms[1:], moved, strict=True))]
    return Expansion(torch.stack(terms), tower(branches, x), x.new_zeros(last + 1))
