"""Translations of tangents by one point, a ⊕ b with b the same for all, by numbers a row alone.

The sum is αa + βb. With q = ‖a‖², p = ⟨a, b⟩, r = ‖b‖², k = 2√c, u = 4cq, S = sinh(√u)/√u, σ = kS,
A₀ = cosh √u, the same of b with an index, and A(n) = asinh(√n)/√n,

    T = A₀B₀ + σσ_b p,    P = (B₀ + T)/(1 + A₀),    L = Pσ
    n = L²q + 2Lσ_b p + σ_b² r,    F = A(n)/k,    α = FL,    β = Fσ_b

so that features are read for q and p and written once. With G the gradient of the sum

    dα = ⟨G, a⟩,    dβ = ⟨G, b⟩,    da = αG + dp b + 2dq a,    db = Σ βG + Σ dp a + 2dr b

and what lies between is differentiated a row at a time.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, records_gradients, through_definition
from ...hyperbolic import mobius_add_tangents
from ...hyperbolic.maths.radial import (
    asinhc_slope,
    asinhc_value,
    cosh_of_square,
    sinhc_slope,
    sinhc_value,
)

__all__ = ["fused_translation"]

# The definition holds points at 20 radii; there it runs.
FURTHEST = 19.0**2


def fused_translation(a: Tensor, b: Tensor, curvature: float | Tensor) -> Tensor | None:
    """The result of `mobius_add_tangents` for a (N, D) and b (D,), or None where that must run."""
    given = [a, b, curvature] if isinstance(curvature, Tensor) else [a, b]
    plain = a.dtype in (torch.float32, torch.float64) and a.device.type == "cpu"
    alike = all((t.dtype, t.device) == (a.dtype, a.device) for t in given)
    if not (plain and alike and a.numel() and records_gradients(*given)):
        return None
    c = _number(curvature)
    with torch.no_grad():
        square = torch.linalg.vector_norm(a, dim=-1).square_()
        # NaN is not within.
        furthest = torch.maximum(square.amax(), b.square().sum())
        if not 4 * c * float(furthest) < FURTHEST:
            return None
    return _Translation.apply(a, b, curvature, square)  # type: ignore[return-value]


def _number(curvature: float | Tensor) -> float:
    return curvature.item() if isinstance(curvature, Tensor) else curvature


class _Point:
    """What the sum needs of b: r, u_b and its sinh, cosh and σ."""

    def __init__(self, b: Tensor, c: float) -> None:
        self.k = 2 * math.sqrt(c)
        self.square = b.square().sum()
        self.u = 4 * c * self.square
        self.sinh, self.cosh = sinhc_value(self.u), cosh_of_square(self.u)
        self.sigma = self.k * self.sinh


class _Rows(NamedTuple):
    """What the sum needs of a row of a: q, σ_b p, and what follows from them."""

    q: Tensor
    along: Tensor
    u: Tensor
    sinh: Tensor
    cosh: Tensor
    ratio: Tensor
    left: Tensor
    n: Tensor
    asinh: Tensor


def _rows(q: Tensor, p: Tensor, b: _Point, c: float) -> _Rows:
    u, along = 4 * c * q, b.sigma * p
    sinh = sinhc_value(u)
    cosh = torch.addcmul(u.new_ones(()), u, sinh.square()).sqrt_()
    sigma = b.k * sinh
    # (B₀ + T)/(1 + A₀) with T = A₀B₀ + σσ_b p.
    ratio = (sigma * along).div_(cosh + 1).add_(b.cosh)
    left = ratio * sigma
    inside = (left * q).add_(along, alpha=2).mul_(left)
    n = inside.add_(b.sigma.square() * b.square).clamp_min_(0.0)
    return _Rows(q, along, u, sinh, cosh, ratio, left, n, asinhc_value(n))


class _Translation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, curvature: float | Tensor, square: Tensor
    ) -> Tensor:
        c = _number(curvature)
        point = _Point(b, c)
        rows = _rows(square, a @ b, point, c)
        ctx.number, ctx.point = c, point
        tensor = curvature if isinstance(curvature, Tensor) else None
        ctx.save_for_backward(a, b, tensor, *rows)
        factor = rows.asinh / point.k
        return (a * (factor * rows.left)[:, None]).addr_(factor * point.sigma, b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        a, b, curvature, *kept = ctx.saved_tensors
        c, point = ctx.number, ctx.point
        if differentiates_backward(gradient):
            given = (a, b, c if curvature is None else curvature)
            found = through_definition(
                lambda a, b, c: mobius_add_tangents(a, b[None], c), given, gradient
            )
            return *found, None
        s, k = _Rows(*kept), point.k
        factor = s.asinh / k
        dalpha, dbeta = (gradient * a).sum(-1), gradient @ b
        dfactor = (dbeta * point.sigma).addcmul_(dalpha, s.left)
        dn = asinhc_slope(s.n, s.asinh).mul_(dfactor).div_(k)
        dleft = (dalpha * factor).addcmul_(dn, (s.left * s.q).add_(s.along), value=2)
        dratio = dleft * s.sinh * k
        dtime = dratio / (s.cosh + 1)
        dsigma = (dleft * s.ratio).addcmul_(dtime, s.along)
        dcosh = dtime * (point.cosh - s.ratio)
        du = sinhc_slope(s.u, s.sinh, s.cosh).mul_(dsigma).mul_(k)
        du.addcmul_(dcosh, s.sinh, value=0.5)
        dq = (dn * s.left.square()).add_(du, alpha=4 * c)
        turn = dtime * s.sinh * k
        dalong = (dn * s.left).mul_(2).add_(turn)
        dp = dalong * point.sigma
        dsigma_b = dbeta @ factor + 2 * dn.sum() * point.sigma * point.square
        dsigma_b = dsigma_b + (dalong @ s.along) / point.sigma
        du_b = sinhc_slope(point.u, point.sinh, point.cosh) * k * dsigma_b
        du_b = du_b + dratio.sum() * point.sinh / 2
        dr = dn.sum() * point.sigma.square() + 4 * c * du_b
        da = (gradient * (factor * s.left)[:, None]).addr_(dp, b)
        da.addcmul_(a, dq.mul(2)[:, None])
        db = (factor * point.sigma) @ gradient + dp @ a + 2 * dr * b
        dc = None
        if curvature is not None:
            scale = dsigma @ s.sinh + dsigma_b * point.sinh - (dfactor @ factor) / k
            dc = k / (2 * c) * scale + 4 * (du @ s.q + du_b * point.square)
            dc = dc.view_as(curvature)
        return da, db, dc, None
