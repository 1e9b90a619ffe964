"""Maps of single values and maps that only move values about.

A function with slopes in [m, l] on every coordinate acts on a difference as a diagonal matrix with
entries in [m, l], so its constant is the largest slope, and a diagonal scaling passes through it.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from ....layers.lipschitz.proof.norms import gamma, product_up, sum_up
from .calculus import Bound, Walk, rule

__all__ = ["Slopes", "slopes"]


class Slopes(NamedTuple):
    """The interval that all slopes of an elementwise function lie in."""

    least: float
    most: float

    @property
    def largest(self) -> float:
        """The largest slope, up or down."""
        return max(abs(self.least), abs(self.most))


# Extremes that are not closed forms are rounded outwards in the last digit given.
FIXED: dict[type[nn.Module], Slopes] = {
    nn.ReLU: Slopes(0.0, 1.0),
    nn.ReLU6: Slopes(0.0, 1.0),
    nn.Hardtanh: Slopes(0.0, 1.0),
    nn.Tanh: Slopes(0.0, 1.0),
    nn.Sigmoid: Slopes(0.0, 0.25),
    nn.Softplus: Slopes(0.0, 1.0),
    nn.LogSigmoid: Slopes(0.0, 1.0),
    nn.Softsign: Slopes(0.0, 1.0),
    nn.Tanhshrink: Slopes(0.0, 1.0),
    nn.Softshrink: Slopes(0.0, 1.0),
    nn.CELU: Slopes(0.0, 1.0),
    nn.Hardsigmoid: Slopes(0.0, 0.16666666666666669),
    nn.SELU: Slopes(0.0, 1.7580993408473769),  # scale · alpha
    nn.GELU: Slopes(-0.1291, 1.1291),  # the tanh form included
    nn.SiLU: Slopes(-0.0999, 1.0999),
    nn.Mish: Slopes(-0.1126, 1.0886),
    nn.Hardswish: Slopes(-0.5, 1.5),
}


def slopes(module: Any) -> Slopes | None:
    """Return the slopes of an elementwise activation, or None for another module."""
    for kind in type(module).__mro__:
        if type(module).forward is not getattr(kind, "forward", None) or "forward" in vars(module):
            return None
        if kind is nn.LeakyReLU:
            return Slopes(min(1.0, module.negative_slope), max(1.0, module.negative_slope))
        if kind is nn.PReLU:
            weight = module.weight.detach().double()
            return Slopes(min(1.0, float(weight.min())), max(1.0, float(weight.max())))
        if kind is nn.ELU:
            return Slopes(min(0.0, module.alpha), max(1.0, module.alpha))
        if kind in FIXED:
            return FIXED[kind]
    return None


@rule(*FIXED, nn.LeakyReLU, nn.PReLU, nn.ELU)
def activation(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Bound an activation by its largest slope."""
    found = slopes(module)
    assert found is not None
    sight = walk.sight(module)
    if isinstance(module, nn.Softplus):
        # Above the threshold torch returns x, which is off by this much.
        count = max((math.prod(shape) for shape in sight.inputs), default=1)
        cut = math.log1p(math.exp(-module.threshold)) / module.beta
        return Bound(1.0, sum_up(product_up(gamma(64), sum_up(sight.read, sight.returned)),
                                 product_up(cut, math.sqrt(count) + 1)))  # fmt: skip
    exact = isinstance(module, (nn.ReLU, nn.ReLU6, nn.Hardtanh))
    lost = 0.0 if exact else product_up(gamma(64), sum_up(sight.read, sight.returned))
    return Bound(found.largest, lost)


@rule(
    nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
)  # fmt: skip
def moved(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Bound what moves values or, as dropout in evaluation, does nothing at all."""
    return Bound(1.0)


@rule(nn.Softmax)
def softmax(walk: Walk, module: nn.Softmax, name: str) -> Bound:
    """Bound softmax by 1/2: its Jacobian is diag(p) − p pᵀ."""
    return Bound(0.5, product_up(gamma(256), sum_up(1.0, walk.sight(module).read)))


@rule(nn.Upsample)
def upsample(walk: Walk, module: nn.Upsample, name: str) -> Bound:
    """Bound a nearest-neighbour upsampling by whole factors: each pixel is written s² times."""
    sight = walk.sight(module)
    if module.mode != "nearest" or len(sight.inputs) != 1 or len(sight.outputs) != 1:
        return walk.refuse(name, f"Upsample in mode {module.mode!r} has no rule; use 'nearest'")
    (before,), (after,) = sight.inputs, sight.outputs
    if any(new % old for old, new in zip(before[1:], after[1:], strict=True)):
        return walk.refuse(name, f"Upsample from {before} to {after} is no whole factor")
    copies = math.prod(n // o for o, n in zip(before[1:], after[1:], strict=True))
    return Bound(math.nextafter(math.sqrt(copies), math.inf))


@rule(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)
def normalisation(walk: Walk, module: Any, name: str) -> Bound:
    """Bound a norm over features by max|γ|/√ε, which its Jacobian attains at a constant input."""
    if getattr(module, "track_running_stats", False):
        return walk.refuse(name, "an instance norm with running statistics has no rule")
    eps = torch.finfo(torch.float64).eps if module.eps is None else module.eps
    if not eps > 0:
        return walk.refuse(name, f"{type(module).__name__} divides by a norm without a floor")
    gain = 1.0 if module.weight is None else float(module.weight.detach().double().abs().max())
    lipschitz = product_up(gain, 1 + gamma(8), 1 / math.sqrt(eps))
    sight = walk.sight(module)
    size = max((math.prod(shape) for shape in sight.inputs), default=1)
    # The mean is off by γ times the features' norm, which the division by √ε magnifies.
    error = product_up(gamma(4 * size + 64), sum_up(product_up(lipschitz, sight.read),
                                                    sight.returned))  # fmt: skip
    walk.note(name, lipschitz, "exact")
    return Bound(lipschitz, error)
