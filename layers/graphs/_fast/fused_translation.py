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
from typing import Any

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
    given = [a, b] + [curvature] * isinstance(curvature, Tensor)
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


class _Rows:
    """What the sum is made of, a number a row or one for all."""

    def __init__(self, q: Tensor, p: Tensor, r: Tensor, c: float) -> None:
        self.k = 2 * math.sqrt(c)
        self.u, self.u_b = 4 * c * q, 4 * c * r
        self.sinh, self.sinh_b = sinhc_value(self.u), sinhc_value(self.u_b)
        self.cosh = (self.u * self.sinh.square()).add_(1).sqrt_()
        self.cosh_b = cosh_of_square(self.u_b)
        self.sigma, self.sigma_b = self.k * self.sinh, self.k * self.sinh_b
        self.along = self.sigma_b * p
        self.above = self.cosh + 1
        # (B₀ + T)/(1 + A₀) with T = A₀B₀ + σσ_b p.
        self.ratio = (self.sigma * self.along).div_(self.above).add_(self.cosh_b)
        self.left = self.ratio * self.sigma
        inside = (self.left * q).add_(self.along, alpha=2).mul_(self.left)
        self.square = inside.add_(self.sigma_b.square() * r).clamp_min_(0.0)
        self.asinh = asinhc_value(self.square)
        self.factor = self.asinh / self.k


class _Translation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, curvature: float | Tensor, square: Tensor
    ) -> Tensor:
        c = _number(curvature)
        p = a @ b
        rows = _Rows(square, p, b.square().sum(), c)
        ctx.number = c
        tensor = curvature if isinstance(curvature, Tensor) else None
        ctx.save_for_backward(a, b, tensor, square, p)
        out = a * (rows.factor * rows.left)[:, None]
        return out.addr_(rows.factor * rows.sigma_b, b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        a, b, curvature, q, p = ctx.saved_tensors
        c = ctx.number
        if differentiates_backward(gradient):
            given = (a, b, c if curvature is None else curvature)
            found = through_definition(
                lambda a, b, c: mobius_add_tangents(a, b[None], c), given, gradient
            )
            return *found, None
        r = b.square().sum()
        s = _Rows(q, p, r, c)
        dalpha, dbeta = (gradient * a).sum(-1), gradient @ b
        dfactor = (dbeta * s.sigma_b).addcmul_(dalpha, s.left)
        dn = asinhc_slope(s.square, s.asinh).mul_(dfactor).div_(s.k)
        inner = (s.left * q).add_(s.along)
        dleft = (dalpha * s.factor).addcmul_(dn, inner, value=2)
        dratio = dleft * s.sigma
        dtime = dratio / s.above
        dsigma = (dleft * s.ratio).addcmul_(dtime, s.along)
        dcosh = dtime * (s.cosh_b - s.ratio)
        du = sinhc_slope(s.u, s.sinh, s.cosh).mul_(dsigma).mul_(s.k).addcmul_(dcosh, s.sinh / 2)
        dq = (dn * s.left.square()).add_(du, alpha=4 * c)
        turn = dtime * s.sigma
        dp = (dn * s.left).mul_(2).add_(turn).mul_(s.sigma_b)
        dsigma_b = (dbeta @ s.factor) + 2 * (dn @ (s.left * p).add_(s.sigma_b * r)) + turn @ p
        du_b = sinhc_slope(s.u_b, s.sinh_b, s.cosh_b) * s.k * dsigma_b
        du_b = du_b + dratio.sum() * s.sinh_b / 2
        dr = dn.sum() * s.sigma_b.square() + 4 * c * du_b
        da = (gradient * (s.factor * s.left)[:, None]).addr_(dp, b)
        da.addcmul_(a, dq.mul_(2)[:, None])
        db = (s.factor * s.sigma_b) @ gradient + dp @ a + 2 * dr * b
        dc = None
        if curvature is not None:
            scale = dsigma @ s.sinh + dsigma_b * s.sinh_b - (dfactor @ s.factor) / s.k
            dc = s.k / (2 * c) * scale + 4 * (du @ q + du_b * r)
            dc = dc.view_as(curvature)
        return da, db, dc, None
