"""Midpoint normalisation with a gradient written by hand, which keeps ω and some numbers per pixel.

With out = f O, O = k d + q M + p b, d = ω − M (`norm`), f = asinh(‖O‖)/(2√c‖O‖), G the gradient of
out, and x = ρ², y = s²x:

    dO = f G + e O,  e = 2 f'⟨G, O⟩;  dk = ⟨dO, d⟩, dq = ⟨dO, M⟩, dp = ⟨dO, b⟩

Both transports are q = −k⟨u, v⟩ and p = cosh(sρ) + k⟨w, v⟩ of v = (λ, δ, α), λ = X − M₀ and
α = ⟨d, b⟩, with three numbers each of the whole batch:

    geodesic  u = n (B₀, 1, −1),  w = n (−B₀, g, 1),  n = 1/(1 + g)
    origin    u = h (1, 1, 0),    w = r (−h⟨M, b⟩, −h⟨M, b⟩, 1),  h = 1/(1 + M₀), r = 1/(1 + B₀)

    du = −Σ k dq v,  dw = Σ k dp v,  dv = k (dp w − dq u),  dδ += (2ρ/sinh ρ) dx
    dk += −dq ⟨u, v⟩ + dp ⟨w, v⟩,  dy = dp C' + dk k'(y),  dx = s² dy − dk k S'(x)/S(x)
    ds = Σ 2 s x dy + dk k/s,  dσ² = −½ s ds/(σ² + ε),  which adds (2ρ/sinh ρ) dσ²c/N to dδ
    dω = k dO + dα b − dδ M + (dλ + M₀ dδ) ω/X
    dM = Σ (q − k) dO − dδ ω − dα b + (X dδ − dλ) M/M₀, and by M₀ and ⟨M, b⟩ in u and w
    db = Σ p dO + dα d, and by B₀ and ⟨M, b⟩ there
    batch's own M = m/ν, m = mean ω:  dν = −⟨dM, M⟩/ν,  dω += (dM/ν − dν M + M₀ dν ω/X)/N

The mean distance μ has ds = −s dμ/(μ + ε) and adds dμ √c/(N sinh ρ) to dδ. Space parts s have
ω = √c s, and f = 1/√c; what c gets by way of ω is Σ⟨ds, s⟩/(2c).

Two forms: three passes forward and two backward of a compiled kernel, and plain PyTorch
(`plain_norm`). The running statistics move by a kernel too.
"""

# Shape letters: B batch, D channels, P pixels, N = B·P points. Numbers per point are (B, 1, P).

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number, root
from ..midpoint import MidpointStatistics, NormKind
from ..running_midpoint import Following, follow
from .fused_layout import as_forward, by_hand, laid_out, matched, tensor_or_none
from .fused_weights import point_velocity
from .plain_norm import normalise_plainly, normalise_plainly_backward

__all__ = ["normalise"]

Definition = Callable[..., tuple[Tensor, Tensor, Tensor]]


def normalise(
    definition: Definition,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    curvature: Curvature,
    midpoint: Tensor | None,
    spread: Tensor | None,
    eps: float,
    running: Following | None,
    kind: NormKind,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The results of `norm.normalised`, or None where that must run.

    Args:
        definition: It, through which gradients go that will be differentiated again.
        x: ω (B, D, …), or space parts.
        mean: β (D,), a tangent or a space part.
        variance: γ.
        curvature: c.
        midpoint: M (D,), or None for the batch's.
        spread: σ²c, or None for the batch's.
        eps: Added to σ², or to the mean distance.
        running: What follows M and σ²c in place, or None; it stays where the answer is None.
        kind: What is done.
    """
    given = () if midpoint is None or spread is None else (midpoint, spread)
    if not by_hand(curvature, x, mean, variance, *given):
        return None
    target = root(curvature) * mean if kind.space else point_velocity(mean, curvature)
    found = _Normalise.apply(
        *(laid_out(x), target.contiguous(), variance, curvature),
        *((given[0].contiguous(), given[1]) if given else (None, None)),
        *(eps, kind, definition),
    )
    if running is not None:
        statistics = MidpointStatistics(*found[1:])  # type: ignore[index]
        if not _follow(running, statistics, curvature):
            follow(running, statistics, curvature)
    return found  # type: ignore[return-value]


@torch.no_grad()
def _follow(running: Following, statistics: MidpointStatistics, curvature: Curvature) -> bool:
    """Move running statistics by a kernel, and return whether that was done."""
    given = (*statistics, running.midpoint, running.variance)
    takes = running.midpoint.is_contiguous() and by_hand(curvature, *given)
    if not (takes and kernel_takes("poincare", *given)):
        return False
    torch.ops.archzoo_poincare.move_midpoint(
        *(statistics.mean.contiguous(), statistics.spread, as_number(curvature)),
        *(as_number(running.share), running.midpoint, running.variance),
    )
    return True


def _flags(kind: NormKind) -> tuple[bool, bool, bool]:
    """Return what a kernel knows of a norm."""
    return kind.space, kind.transport == "origin", kind.scale == "mean"


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        target: Tensor,
        variance: Tensor,
        curvature: Curvature,
        mean: Tensor | None,
        spread: Tensor | None,
        eps: float,
        kind: NormKind,
        definition: Definition,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.number, ctx.definition = as_number(curvature), definition
        ctx.eps, ctx.kind = eps, kind
        ctx.batch = mean is None or spread is None
        given = () if mean is None or spread is None else (mean, spread)
        ctx.kernel = kernel_takes("poincare", x, target, variance, *given)
        if ctx.kernel:
            moments = x.new_ones(2)
            if mean is None or spread is None:
                found = torch.empty_like(target)
            else:
                found, moments[0] = mean, spread
            # ‖O‖², X, ‖d‖², ⟨d, M⟩ and ⟨d, b⟩ of each point.
            numbers = x.new_empty(5, x.numel() // len(target))
            out = torch.empty_like(x)
            torch.ops.archzoo_poincare.normalise(
                *(x, target, variance, ctx.number, eps, ctx.batch, *_flags(kind)),
                *(found, moments, numbers, out),
            )
            kept = (found, moments, numbers)
        else:
            arguments = (x, target, variance, ctx.number, given, eps, kind)
            out, found, moments, *kept = normalise_plainly(*arguments)
            kept = (found, moments, *kept)
        inputs = (x, target, variance, tensor_or_none(curvature), mean, spread)
        ctx.save_for_backward(*inputs, *kept)
        ctx.mark_non_differentiable(found, spread_of := moments[0].clone())
        return out, found, spread_of

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:  # type: ignore[override]
        x, target, variance, curvature, mean, spread, *kept = ctx.saved_tensors
        number, eps, kind = ctx.number, ctx.eps, ctx.kind
        if differentiates_backward(gradient):
            curved = number if curvature is None else curvature
            found = through_definition(
                lambda w, b, v, c, m, s: ctx.definition(w, b, v, c, m, s, eps, kind)[0],
                (x, target, variance, curved, mean, spread),
                gradient,
            )
            return *found, None, None, None
        gradient = matched(gradient, x)
        if ctx.kernel:
            dx, dmean = torch.empty_like(x), torch.empty_like(target)
            dtarget, scalars = torch.empty_like(target), x.new_empty(3)
            torch.ops.archzoo_poincare.normalise_backward(
                *(gradient, x, target, variance, number, eps, ctx.batch, *_flags(kind)),
                *(*kept, dx, dtarget, dmean, scalars),
            )
            dvariance, dcurvature, dspread = scalars.unbind()
        else:
            dx, dtarget, dvariance, dcurvature, dmean, dspread = normalise_plainly_backward(
                gradient, x, target, variance, number, eps, ctx.batch, kind, *kept
            )
        if curvature is None:
            dcurvature = None
        else:
            # Not by way of ω where that is given.
            through = (dx * x).sum() / (2 * number) if kind.space else 0.0
            dcurvature = (dcurvature + through).view_as(curvature)
        given = (None, None) if ctx.batch else (dmean, dspread)
        return dx, dtarget, dvariance.view_as(variance), dcurvature, *given, None, None, None
