"""The equations of the mechanisms whose state is one stream, written out."""

import torch
from archzoo.layers.residual import Residual
from torch import Tensor

from ..stacks import layer_norm, rms_norm

__all__ = ["add", "deepnorm", "highway", "layer_scale", "lorentz_centroid", "mobius", "mobius_sum"]
__all__ += ["orthogonal", "parallel"]
__all__ += ["branch", "rezero", "scaled", "skip_init", "space_part_of", "tangent_of"]


def branch(h: Tensor, weight: Tensor) -> Tensor:
    """tanh(norm(h) W)."""
    return (rms_norm(h) @ weight).tanh()


def add(residual: Residual, x: Tensor, weights: Tensor) -> Tensor:
    """x <- x + F(x)."""
    for weight in weights:
        x = x + branch(x, weight)
    return x


def scaled(
    residual,
    x: Tensor,
    weights: Tensor,
    *,
    coefficient: float = 1.0,
    exponent: float = 0.5,
    count: str = "adds",
    learned: bool = False,
    per_channel: bool = False,
    shared: bool = False,
) -> Tensor:
    """x <- x + λ F(x), two branches a block."""
    depth = len(weights) if count == "adds" else len(weights) // 2
    for i, weight in enumerate(weights):
        scale = (
            residual.scale[i // 2 if shared else i] if learned else coefficient / depth**exponent
        )
        x = x + scale * branch(x, weight)
    return x


def skip_init(residual, x: Tensor, weights: Tensor) -> Tensor:
    """A learned λ for each branch."""
    return scaled(residual, x, weights, learned=True)


def rezero(residual, x: Tensor, weights: Tensor) -> Tensor:
    """A learned λ for each block."""
    return scaled(residual, x, weights, learned=True, shared=True)


def layer_scale(residual, x: Tensor, weights: Tensor) -> Tensor:
    """A learned λ for each branch and channel."""
    return scaled(residual, x, weights, learned=True, per_channel=True)


def deepnorm(residual, x: Tensor, weights: Tensor, *, alpha: float | None = None) -> Tensor:
    """x <- LN(α x + F(x)), with the last norm left to the backbone; two branches a block."""
    alpha = len(weights) ** 0.25 if alpha is None else alpha
    for weight in weights:
        h = layer_norm(x)
        x = alpha * h + (h @ weight).tanh()
    return x


def highway(residual, x: Tensor, weights: Tensor, *, gate: str = "channel") -> Tensor:
    """x <- (1 − t) x + t F(x), t = σ(W x / rms(x) + b)."""
    for w, b, weight in zip(residual.weight, residual.bias, weights, strict=True):
        logit = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() @ w.T + b
        t = 1 / (1 + (-logit).exp())
        x = (1 - t) * x + t * branch(x, weight)
    return x


def orthogonal(residual: Residual, x: Tensor, weights: Tensor, *, eps: float = 1e-6) -> Tensor:
    """x <- x + (I − x xᵀ / (|x|² + ε)) F(x)."""
    for weight in weights:
        eye = torch.eye(x.shape[-1], dtype=x.dtype)
        outer = x.unsqueeze(-1) * x.unsqueeze(-2)
        project = eye - outer / (x.square().sum(-1)[..., None, None] + eps)
        x = x + (project @ branch(x, weight).unsqueeze(-1)).squeeze(-1)
    return x


def parallel(
    residual, x: Tensor, weights: Tensor, *, group: int = 2, exponent: float = 0.0
) -> Tensor:
    """acc <- acc + λ F(base), and base <- acc after every g branches."""
    base = acc = x
    for i, weight in enumerate(weights, 1):
        acc = acc + len(weights) ** -exponent * branch(base, weight)
        if i % group == 0:
            base = acc
    return acc


def mobius(
    residual,
    x: Tensor,
    weights: Tensor,
    *,
    curvature: float = 1.0,
    coordinates: str = "tangent",
    order: str = "branch_first",
) -> Tensor:
    """x <- log₀(exp₀(F(x)) ⊕ exp₀(x)), or the other way round."""
    for weight in weights:
        pair = branch(x, weight), x
        pair = pair if order == "branch_first" else pair[::-1]
        if coordinates == "space":
            given = [tangent_of(s, curvature) for s in pair]
            x = space_part_of(mobius_sum(*given, curvature), curvature)
        else:
            x = mobius_sum(*pair, curvature)
    return x


def lorentz_centroid(
    residual, x: Tensor, weights: Tensor, *, curvature: float = 1.0, coordinates: str = "tangent"
) -> Tensor:
    """s <- (1 + w) g (s + w s') / √(c (N² − |s + w s'|²)), N = x₀ + w x₀'."""
    parts = zip(residual.log_weight.exp(), residual.log_gain.exp(), weights, strict=True)
    for w, gain, weight in parts:
        pair = [x, branch(x, weight)]
        if coordinates == "tangent":
            pair = [space_part_of(t, curvature) for t in pair]
        total = pair[0] + w * pair[1]
        time, other = ((1 / curvature + s.square().sum(-1, keepdim=True)).sqrt() for s in pair)
        square = (time + w * other).square() - total.square().sum(-1, keepdim=True)
        x = (1 + w) * gain * total / (curvature * square).sqrt()
        x = tangent_of(x, curvature) if coordinates == "tangent" else x
    return x


def space_part_of(tangent: Tensor, c: float) -> Tensor:
    """The space part of the point of the hyperboloid that a tangent of the ball names."""
    length = 2 * c**0.5 * tangent.norm(dim=-1, keepdim=True)
    return 2 * length.sinh() / length * tangent


def tangent_of(space: Tensor, c: float) -> Tensor:
    """The tangent of the ball that names the point of a space part."""
    length = c**0.5 * space.norm(dim=-1, keepdim=True)
    return 0.5 * length.asinh() / length * space


def mobius_sum(a: Tensor, b: Tensor, c: float) -> Tensor:
    """The sum of two points of the ball, all three given by their tangents at the origin."""

    def point(tangent: Tensor) -> Tensor:
        length = c**0.5 * tangent.norm(dim=-1, keepdim=True)
        return length.tanh() / length * tangent

    a, b = point(a), point(b)
    ab, aa, bb = ((p * q).sum(-1, keepdim=True) for p, q in ((a, b), (a, a), (b, b)))
    total = (1 + 2 * c * ab + c * bb) * a + (1 - c * aa) * b
    total = total / (1 + 2 * c * ab + c**2 * aa * bb)
    length = c**0.5 * total.norm(dim=-1, keepdim=True)
    return torch.atanh(length) / length * total
