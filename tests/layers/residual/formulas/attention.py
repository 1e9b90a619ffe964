"""The equations of the mechanisms that attend over depth at every branch, written out."""

import math

import torch
from torch import Tensor

from ..stacks import rms_norm
from .sums import branch, mobius_sum, space_part_of, tangent_of

__all__ = ["attnres", "block_attnres", "depth_swa", "gyro_attnres", "gyro_block_attnres"]
__all__ += ["lime", "value_residual"]


def block_attnres(
    residual,
    x: Tensor,
    weights: Tensor,
    *,
    block_size: int = 4,
    key_gain: bool = True,
    heads: int = 1,
    competition: str = "softmax",
    window: int | None = None,
    input_dependent_query: bool = False,
    additive: bool = False,
    shared_query: bool = False,
    curvature: float = 0.0,
    coordinates: str = "tangent",
) -> Tensor:
    """Every branch reads a mixture of the embedding and of the blocks' sums, the open one last."""

    def told(points: list[Tensor]) -> list[Tensor]:
        return [tangent_of(s, curvature) for s in points] if coordinates == "space" else points

    def meant(tangent: Tensor) -> Tensor:
        return space_part_of(tangent, curvature) if coordinates == "space" else tangent

    length, blocks, stream = len(weights), [], x

    def query(site: int, newest: Tensor) -> Tensor:
        row = site
        if shared_query:  # sites are attention and mlp in turn
            row = 2 if site == length else site % 2
        u = residual.query[row]
        if input_dependent_query:
            unit = newest / (newest.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            u = u + unit @ residual.query_weight[row].T
        return u * residual.gain[row] if key_gain else u

    def read(site: int) -> Tensor:
        if site == 0 or (additive and site == length):
            return stream
        held = [x, *(blocks if window is None else blocks[-window:])]
        u = query(site, held[-1])
        if additive and site % block_size:
            held = held[:-1]
        parts = [(u * unit(v)).unflatten(-1, (heads, -1)).sum(-1) for v in held]
        logits = torch.stack(parts)
        shares = logits.softmax(0) if competition == "softmax" else 1 / (1 + (-logits).exp())
        shares = shares.repeat_interleave(x.shape[-1] // heads, -1)
        if curvature:
            return meant(midpoint(told(held), shares, curvature))
        mixed = sum(a * v for a, v in zip(shares, held, strict=True))
        return stream + mixed if additive else mixed

    for site, weight in enumerate(weights):
        y = branch(read(site), weight)
        stream = stream + y
        if site % block_size == 0:
            blocks.append(y)
        else:
            pair = [y, blocks[-1]]
            blocks[-1] = meant(mobius_sum(*told(pair), curvature)) if curvature else sum(pair)
    return read(length)


def attnres(residual, x: Tensor, weights: Tensor, **options) -> Tensor:
    """Every branch is a block."""
    return block_attnres(residual, x, weights, block_size=1, **options)


def gyro_block_attnres(
    residual, x: Tensor, weights: Tensor, *, curvature: float = 1.0, **options
) -> Tensor:
    """Sources are points of a ball, sums are Möbius sums and mixtures are midpoints."""
    return block_attnres(residual, x, weights, curvature=curvature, **options)


def gyro_attnres(residual, x: Tensor, weights: Tensor, **options) -> Tensor:
    """Every branch is a block."""
    return gyro_block_attnres(residual, x, weights, block_size=1, **options)


def unit(x: Tensor) -> Tensor:
    """x / rms(x), with the epsilon of a key."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def midpoint(tangents: list[Tensor], shares: Tensor, c: float) -> Tensor:
    """½ ⊗ (Σ a λ p / Σ a (λ − 1)) of the points p, as a tangent at the origin."""
    above, below = 0.0, 0.0
    for share, tangent in zip(shares, tangents, strict=True):
        length = c**0.5 * tangent.norm(dim=-1, keepdim=True)
        factor = 2 * length.cosh().square()  # λ = 2 / (1 − c |p|²) with √c |p| = tanh
        above = above + share * factor * length.tanh() / length * tangent
        below = below + share * (factor - 1)
    point = above / below
    length = c**0.5 * point.norm(dim=-1, keepdim=True)
    return 0.5 * torch.atanh(length) / length * point


def depth_swa(
    residual,
    x: Tensor,
    weights: Tensor,
    *,
    window: int | None = 4,
    heads: int = 1,
    mode: str = "add",
) -> Tensor:
    """The last of the states attends to those in the window, head by head."""
    states = [x]
    for site, weight in enumerate(weights):
        h = states[-1]
        if site > 0:
            seen = states if window is None else states[-window:]
            z = attended(seen, residual.qkv[site - 1], heads) @ residual.out[site - 1].T
            h = h + z if mode == "add" else z
        states.append(states[-1] + (rms_norm(h) @ weight).tanh())
    return states[-1]


def value_residual(
    residual, x: Tensor, weights: Tensor, *, form: str = "learned", layers: int = 3
) -> Tensor:
    """An attention takes λ_1 v_1 + λ_2 v for its values; here an attention is tanh(v)."""
    count, first = sum(site.attends for site in residual.sites), None
    place = -1
    for site, weight in zip(residual.sites, weights, strict=True):
        value = rms_norm(x) @ weight
        if site.attends:
            place += 1
            first = value if first is None else first
            if form == "learned" and place:
                a, b = residual.weight[place - 1]
            elif form == "identity":
                a, b = 0.5, 0.5
            else:
                a, b = (5.0, 1.0) if place >= max(1, count - layers) else (0.0, 1.0)
            value = a * first + b * value if place else value
        x = x + value.tanh()
    return x


def lime(residual, x: Tensor, weights: Tensor) -> Tensor:
    """Keys and values of one head are sums over all so far; an attention is tanh(v' + k' − k)."""
    keys, values = [], []
    for site, weight in zip(residual.sites, weights, strict=True):
        y = rms_norm(x) @ weight
        if site.attends:
            keys.append(y.flip(-1))
            values.append(y)
            place = len(values) - 1
            route = residual.route[str(place)][0] if place else torch.ones(1)
            y = sum(r * (k + v) for r, k, v in zip(route, keys, values, strict=True)) - keys[-1]
        x = x + y.tanh()
    return x


def attended(states: list[Tensor], qkv: Tensor, heads: int) -> Tensor:
    """softmax(c_l W_Q [c]ᵀ W_Kᵀ / √d) [c] W_V, head by head."""
    wq, wk, wv = qkv.chunk(3)
    parts, size = [], len(wq) // heads
    for i in range(heads):
        rows = slice(i * size, (i + 1) * size)
        q = unit(states[-1]) @ wq[rows].T
        scores = [(q * (unit(x) @ wk[rows].T)).sum(-1) / math.sqrt(size) for x in states]
        total = sum(s.exp() for s in scores)
        mixed = (
            (s.exp() / total)[..., None] * (unit(x) @ wv[rows].T)
            for s, x in zip(scores, states, strict=True)
        )
        parts.append(sum(mixed))
    return torch.cat(parts, -1)
