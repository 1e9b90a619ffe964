"""Midpoint normalisation with a gradient written by hand, which keeps ω and some numbers per pixel.

With out = f O, O = k d + q M + p b, d = ω − M (`norm`), f = asinh(‖O‖)/(2√c‖O‖), G the gradient of
out, and x = ρ², y = s²x:

    dO = f G + e O,  e = 2 f'⟨G, O⟩;  dk = ⟨dO, d⟩, dq = ⟨dO, M⟩, dp = ⟨dO, b⟩ and, n = 1/(1 + g):
    dη = −k n (dq + dp),  dg = −n q (dq + dp),  dδ = k n (g dp − dq) + (2ρ/sinh ρ) dx
    dk += −dq (η + δ) n + dp (δ g − η) n,  dy = dp C' + dk k'(y),  dx = s² dy − dk k S'(x)/S(x)
    ds = Σ 2 s x dy + dk k/s,  dσ² = −½ s ds/(σ² + ε),  which adds (2ρ/sinh ρ) dσ²c/N to dδ
    dω = k dO − dη b − dδ M + (B₀ dη + M₀ dδ) ω/X
    dM = Σ (q − k) dO − dδ ω + (dη − dg) b + (B₀(dg − dη) + X dδ) M/M₀
    db = Σ p dO − dη d − dg M + ((X − M₀) dη + M₀ dg) b/B₀
    batch's own M = m/ν, m = mean ω:  dν = −⟨dM, M⟩/ν,  dω += (dM/ν − dν M + M₀ dν ω/X)/N

Two forms: three passes forward and two backward of a compiled kernel, and plain PyTorch
(`plain_norm`). The running statistics move by a kernel too.
"""

# Shape letters: B batch, D channels, P pixels, N = B·P points. Numbers per point are (B, 1, P).

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...fast_path import differentiates_backward, kernel_takes, through_definition
from ..maths.ball import Curvature, as_number
from ..midpoint import MidpointStatistics
from ..running_midpoint import Following, follow
from .fused_layout import as_forward, by_hand, laid_out, matched, tensor_or_none
from .fused_weights import point_velocity
from .plain_norm import normalise_plainly, normalise_plainly_backward

__all__ = ["normalise"]

Definition = Callable[..., tuple[Tensor, Tensor, Tensor]]


def normalise(
    definition: Definition,
    velocity: Tensor,
    mean: Tensor,
    variance: Tensor,
    curvature: Curvature,
    midpoint: Tensor | None,
    spread: Tensor | None,
    eps: float,
    running: Following | None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Tangents, M and σ²c of `norm.normalised_tangents`, or None where that must run.

    Args:
        definition: It, through which gradients go that will be differentiated again.
        velocity: ω (B, D, …).
        mean: The tangent of β (D,).
        variance: γ.
        curvature: c.
        midpoint: M (D,), or None for the batch's.
        spread: σ²c, or None for the batch's.
        eps: Added to σ².
        running: What follows M and σ²c in place, or None; it stays where the answer is None.
    """
    given = () if midpoint is None or spread is None else (midpoint, spread)
    if not by_hand(curvature, velocity, mean, variance, *given):
        return None
    found = _Normalise.apply(
        *(laid_out(velocity), point_velocity(mean, curvature), variance, curvature),
        *((given[0].contiguous(), given[1]) if given else (None, None)),
        *(eps, definition),
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


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        velocity: Tensor,
        target: Tensor,
        variance: Tensor,
        curvature: Curvature,
        mean: Tensor | None,
        spread: Tensor | None,
        eps: float,
        definition: Definition,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.number, ctx.eps, ctx.definition = as_number(curvature), eps, definition
        ctx.batch = mean is None or spread is None
        given = () if mean is None or spread is None else (mean, spread)
        ctx.kernel = kernel_takes("poincare", velocity, target, variance, *given)
        if ctx.kernel:
            moments = velocity.new_ones(2)
            if mean is None or spread is None:
                found = torch.empty_like(target)
            else:
                found, moments[0] = mean, spread
            # ‖O‖², X, ‖d‖², ⟨d, M⟩ and ⟨d, b⟩ of each point.
            numbers = velocity.new_empty(5, velocity.numel() // len(target))
            out = torch.empty_like(velocity)
            torch.ops.archzoo_poincare.normalise(
                *(velocity, target, variance, ctx.number, eps, ctx.batch),
                *(found, moments, numbers, out),
            )
            kept = (found, moments, numbers)
        else:
            arguments = (velocity, target, variance, ctx.number, given, eps)
            out, found, moments, *kept = normalise_plainly(*arguments)
            kept = (found, moments, *kept)
        inputs = (velocity, target, variance, tensor_or_none(curvature), mean, spread)
        ctx.save_for_backward(*inputs, *kept)
        ctx.mark_non_differentiable(found, spread_of := moments[0].clone())
        return out, found, spread_of

    @staticmethod
    @as_forward
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:  # type: ignore[override]
        velocity, target, variance, curvature, mean, spread, *kept = ctx.saved_tensors
        number, eps = ctx.number, ctx.eps
        if differentiates_backward(gradient):
            curved = number if curvature is None else curvature
            found = through_definition(
                lambda w, b, v, c, m, s: ctx.definition(w, b, v, c, m, s, eps)[0],
                (velocity, target, variance, curved, mean, spread),
                gradient,
            )
            return *found, None, None
        gradient = matched(gradient, velocity)
        if ctx.kernel:
            dvelocity, dmean = torch.empty_like(velocity), torch.empty_like(target)
            dtarget, scalars = torch.empty_like(target), velocity.new_empty(3)
            torch.ops.archzoo_poincare.normalise_backward(
                *(gradient, velocity, target, variance, number, eps, ctx.batch),
                *(*kept, dvelocity, dtarget, dmean, scalars),
            )
            dvariance, dcurvature, dspread = scalars.unbind()
        else:
            dvelocity, dtarget, dvariance, dcurvature, dmean, dspread = normalise_plainly_backward(
                gradient, velocity, target, variance, number, eps, ctx.batch, *kept
            )
        dcurvature = None if curvature is None else dcurvature.view_as(curvature)
        given = (None, None) if ctx.batch else (dmean, dspread)
        return dvelocity, dtarget, dvariance.view_as(variance), dcurvature, *given, None, None
