"""Layers of the ball, with the Euclidean norm of tangents on both sides.

exp₀ is 1-Lipschitz. log₀ and everything that contains it is not Lipschitz unless the radius is
clipped. The head is: a logit is 2‖z‖ times a signed geodesic distance, which is 1-Lipschitz in the
ball's metric, and on tangents of length ≤ R exp₀ stretches that metric by at most 2 S(2√c R),
S(τ) = sinh(τ)/τ, since in polar coordinates it is (2 dr, sinh(2√c r)/√c dθ). So behind a clip each
logit is 4‖z‖ S(2√c R)-Lipschitz; clipping is a projection, with constant 1.
"""

import math
from typing import Any

from torch import nn

from ....layers import hyperbolic
from ....layers.lipschitz.proof.norms import gamma, product_up, sum_up
from .calculus import Bound, Walk, rule

__all__ = ["logit_constants"]

NO_CLIP = "has no radius clip before it, and geodesic distances grow without bound there; give the "
NO_CLIP += "head clip=…"


@rule(hyperbolic.ClipTangent)
def clip(walk: Walk, module: Any, name: str) -> Bound:
    """Bound a projection onto a ball by 1."""
    return Bound(1.0, product_up(gamma(4096), walk.sight(module).read))


@rule(hyperbolic.ToBall)
def to_ball(walk: Walk, module: Any, name: str) -> Bound:
    """Bound exp₀ by 1."""
    return Bound(1.0, product_up(gamma(4096), walk.sight(module).read))


def logit_constants(module: Any) -> list[float] | None:
    """Return the constant of each logit of the ball's head, or None without a clip."""
    if module.clip is None:
        return None
    c = float(module.curvature())
    # Relative errors of a few roundings, in τ magnified by τ in the exponent.
    t = 2 * math.sqrt(c) * module.clip * (1 + gamma(8))
    stretch = math.sinh(t) / t * (1 + gamma(32) * (1 + t)) if t < 700 else math.inf
    lengths = module.weight.detach().double().norm(dim=1) * (1 + gamma(module.in_features + 8))
    return [product_up(4.0, length, stretch) for length in lengths.tolist()]


@rule(hyperbolic.PoincareMLR)
def head(walk: Walk, module: Any, name: str) -> Bound:
    """Bound distances to hyperplanes behind a clip."""
    each = logit_constants(module)
    if each is None:
        return walk.refuse(name, f"PoincareMLR {NO_CLIP}")
    total = product_up(math.sqrt(sum(v * v for v in each)), 1 + gamma(2 * len(each) + 8))
    size = 4096 + 8 * module.in_features
    sight = walk.sight(module)
    lost = product_up(gamma(size), total, sum_up(1.0, sight.read, sight.returned))
    walk.note(name, total, "product")
    return Bound(total, lost)


UNCLIPPED: tuple[type[nn.Module], ...] = (
    hyperbolic.FromBall,
    hyperbolic.PoincareLinear,
    hyperbolic.PoincareConv2d,
    hyperbolic.MidpointBatchNorm,
    hyperbolic.MidpointPool,
)


@rule(*UNCLIPPED)
def unclipped(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Refuse."""
    return walk.refuse(
        name,
        f"{type(module).__name__} takes logarithms of the ball with no clip of the radius, and "
        f"their slope grows without bound towards its edge",
    )
