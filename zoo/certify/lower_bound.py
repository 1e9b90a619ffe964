"""A sampled lower bound of a Lipschitz constant: the steepest pair of points that a search finds.

    max ‖f(x) − f(z)‖ / ‖x − z‖

starts at the first singular pair of the Jacobian, by power iteration, and climbs over both points
by Adam, in float64. Every ratio visited is one of two real points, so the largest is a lower bound
up to the rounding of f.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp

from ...layers.modes import evaluating

__all__ = ["lipschitz_estimate", "steepest_pair"]

Function = Callable[[Tensor], Tensor]


def lipschitz_estimate(
    model: nn.Module, x: Tensor, *, points: int = 8, power: int = 12, steps: int = 60, seed: int = 0
) -> float:
    """Return the largest ratio found.

    Args:
        model: In float64; it runs in evaluation mode.
        x: Points to start from, (N, …); the first `points` are used.
        points: Pairs that climb side by side, at least 1.
        power: Power iterations at the start.
        steps: Of Adam.
        seed: Of the first directions.

    Raises:
        ValueError: no points, or a model in another precision.
    """
    for name, p in model.named_parameters():
        if p.is_floating_point() and p.dtype != torch.float64:
            raise ValueError(
                f"model must be in float64, where a ratio is not rounding, got {name} in "
                f"{p.dtype}; give copy.deepcopy(model).double()"
            )
    with evaluating(model):
        return steepest_pair(model, x, points=points, power=power, steps=steps, seed=seed)[0]


def steepest_pair(
    model: Function, x: Tensor, *, points: int = 8, power: int = 12, steps: int = 60, seed: int = 0
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Return the largest ratio found, and its two points.

    Args:
        model: A function of float64 samples, in evaluation.
        x: As in `lipschitz_estimate`, and so are the others.
        points: Pairs that climb side by side.
        power: Power iterations at the start.
        steps: Of Adam.
        seed: Of the first directions.

    Raises:
        ValueError: no points.
    """
    if len(x) < 1:
        raise ValueError(f"x must be points (N, …) with N >= 1, got shape {tuple(x.shape)}")
    x = x[:points].detach().double()
    generator = torch.Generator().manual_seed(seed)
    scale = float(x.flatten(1).norm(dim=1).mean()) or 1.0
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(power):
            forward = jvp(model, (x,), (_unit(direction),))[1]
            (direction,) = vjp(model, x)[1](forward)
    here = x.clone().requires_grad_()
    # Long enough that the rounding of f does not show in a ratio.
    there = (x + 1e-2 * scale * _unit(direction)).requires_grad_()
    optimiser = torch.optim.Adam([here, there], lr=1e-2 * scale / x[0].numel() ** 0.5)
    best, pair = 0.0, (x[0], x[0])
    for _ in range(steps + 1):
        with torch.enable_grad():
            rise = (model(here) - model(there)).flatten(1).norm(dim=1)
            run = (here - there).flatten(1).norm(dim=1)
            usable = (run > 1e-4 * scale) & rise.isfinite() & (rise > 0)
            ratio = rise[usable] / run[usable]
            if not len(ratio):
                break
            top = float(ratio.detach().max())
            if top > best:
                at = usable.nonzero().squeeze(1)[ratio.detach().argmax()]
                best, pair = top, (here[at].detach().clone(), there[at].detach().clone())
            loss = -ratio.log().sum()
        gradients = torch.autograd.grad(loss, [here, there])
        for point, gradient in zip((here, there), gradients, strict=True):
            point.grad = gradient
        optimiser.step()
    return best, pair


def _unit(v: Tensor) -> Tensor:
    length = v.flatten(1).norm(dim=1).clamp_min(1e-300)
    return v / length.view(-1, *[1] * (v.dim() - 1))
