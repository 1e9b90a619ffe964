"""Rules of whole layers: a constant for a module whose operations have no bound of their own.

A rule is believed, so it is for a class whose forward is known: it serves that class alone, not
its subclasses, and no instance with a forward of its own. Hooks run outside of it and are recorded.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ....layers import hyperbolic
from ....layers.lipschitz.proof.norms import gamma, product_up

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


UNCLIPPED: tuple[type[nn.Module], ...] = (
    hyperbolic.FromBall,
    hyperbolic.PoincareLinear,
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
