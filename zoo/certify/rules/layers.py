"""Rules of whole layers: a constant for a module whose operations have no bound of their own.

A rule is believed, so it is for a class whose forward is known: it serves that class alone, not
its subclasses, and no instance with a forward of its own. Hooks run outside of it and are recorded.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ....layers import hyperbolic
from ....layers.lipschitz.proof.norms import gamma, product_up, spectral_bound, sum_up

__all__ = ["Answer", "layer", "layer_rules", "logit_constants"]

Answer = Callable[[Any], float | str]
"""(module) -> a Lipschitz constant from its one input to its output, or why there is none."""

Decorated = TypeVar("Decorated", bound=Answer)

LAYERS: dict[type[nn.Module], Answer] = {}


def layer(*kinds: type[nn.Module]) -> Callable[[Decorated], Decorated]:
    """Decorate the rule of some classes of modules: (module) -> constant, or a reason."""

    def decorate(function: Decorated) -> Decorated:
        for kind in kinds:
            LAYERS[kind] = function
        return function

    return decorate


def layer_rules(module: nn.Module) -> Answer | None:
    """Return the rule of a module, or None."""
    return None if "forward" in vars(module) else LAYERS.get(type(module))


@layer(hyperbolic.ClipTangent, hyperbolic.ToBall)
def projection(module: nn.Module) -> float:
    """Bound a projection onto a ball, and exp₀ from tangents to tangents, by 1."""
    return 1.0


@layer(hyperbolic.PoincareMLR)
def distances(module: hyperbolic.PoincareMLR) -> float | str:
    """Bound distances to hyperplanes behind a clip.

    A logit is 2‖z‖ times a signed geodesic distance, which is 1-Lipschitz in the ball's metric. On
    tangents of length ≤ R exp₀ stretches that metric by at most 2 S(2√c R), S(τ) = sinh(τ)/τ, since
    in polar coordinates it is (2 dr, sinh(2√c r)/√c dθ).
    """
    each = logit_constants(module)
    if each is None:
        return (
            "has no radius clip before it, and geodesic distances grow without bound there; give "
            "the head clip=…"
        )
    return product_up(math.sqrt(sum(v * v for v in each)), 1 + gamma(2 * len(each) + 8))


def logit_constants(module: hyperbolic.PoincareMLR) -> list[float] | None:
    """Return the constant of each logit of the ball's head, or None without a clip."""
    if module.clip is None:
        return None
    c = float(module.curvature())
    # Relative errors of a few roundings, in τ magnified by τ in the exponent.
    t = 2 * math.sqrt(c) * module.clip * (1 + gamma(8))
    stretch = math.sinh(t) / t * (1 + gamma(32) * (1 + t)) if t < 700 else math.inf
    lengths = module.weight.detach().double().norm(dim=1) * (1 + gamma(module.in_features + 8))
    return [product_up(4.0, length, stretch) for length in lengths.tolist()]


@layer(hyperbolic.LorentzLinear)
def columns(module: hyperbolic.LorentzLinear) -> float:
    """Bound W s + w₀ e(s) + b by ‖W‖ + ‖w₀‖, since the gradient of e is shorter than 1.

    The roundings are those of two products and of a root behind a sum of squares.
    """
    time = spectral_bound(module.time_weight.detach()[:, None])
    roundings = 1 + gamma(2 * module.in_features + 32)
    return product_up(sum_up(spectral_bound(module.weight.detach()), time), roundings)


@layer(hyperbolic.LorentzConv2d)
def patches(module: hyperbolic.LorentzConv2d) -> float:
    """Bound the linear layer of a patch, times the root of how many patches share a pixel.

    The bound holds for images of every size; along an axis of k taps, ⌈k/stride⌉ patches share a
    pixel, or k of a dilated kernel.
    """
    weight = module.weight.detach().unflatten(0, (module.groups, -1)).flatten(2)
    times = module.time_weight.detach().view(module.groups, -1, 1)
    layers = zip(weight, times, strict=True)
    each = max(sum_up(spectral_bound(w), spectral_bound(t)) for w, t in layers)
    strides, gaps = (
        (number, number) if isinstance(number, int) else number
        for number in (module.stride, module.dilation)
    )
    axes = zip(module.weight.shape[2:], strides, gaps, strict=True)
    shared = math.prod(-(-taps // step) if gap == 1 else taps for taps, step, gap in axes)
    roundings = 1 + gamma(2 * weight.shape[2] + 32)
    return product_up(each, math.sqrt(shared), roundings)


@layer(hyperbolic.LorentzMLR)
def hyperboloid_distances(module: hyperbolic.LorentzMLR) -> float:
    """Bound distances to hyperplanes: a logit is 2‖z‖-Lipschitz in the space part.

    It is 2‖z‖ times a geodesic distance, and those are at most distances of space parts.
    """
    lengths = module.weight.detach().double().norm(dim=1) * (1 + gamma(module.in_features + 8))
    constants = [product_up(2.0, length) for length in lengths.tolist()]
    total = math.sqrt(sum(v * v for v in constants))
    return product_up(total, 1 + gamma(2 * len(constants) + module.in_features + 64))


@layer(hyperbolic.LorentzPrototypes, hyperbolic.LorentzBatchNorm, hyperbolic.CentroidPool)
def of_squares(module: nn.Module) -> str:
    """Say why products and boosts of points have no constant."""
    return "multiplies points by one another, and its slope grows with their distance"


UNCLIPPED: tuple[type[nn.Module], ...] = (
    hyperbolic.FromBall,
    hyperbolic.PoincareLinear,
    hyperbolic.PointProjection,
    hyperbolic.PoincareConv2d,
    hyperbolic.MidpointBatchNorm,
    hyperbolic.MidpointPool,
)


@layer(*UNCLIPPED)
def unclipped(module: nn.Module) -> str:
    """Say why a layer of the ball has no constant."""
    return (
        "takes logarithms of the ball with no clip of the radius, and their slope grows without "
        "bound towards its edge"
    )
