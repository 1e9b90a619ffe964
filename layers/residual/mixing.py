"""Small parts that several mechanisms are made of: they work on tokens and on images."""

# Shape letters: B batch, D width, n sources, ... token or pixel axes.

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from .stream import routing, working_dtype

__all__ = ["key_statistic", "project", "rms_norm", "weighted_sum"]


def key_statistic(source: Tensor, channel_dim: int, eps: float) -> Tensor:
    """Statistic r of a source, with size 1 on the axis of D, in float32 or its wider dtype.

    Its derivative goes with r³, which float16 cannot hold for r above 40.
    """
    wide = source.to(working_dtype(source))
    return torch.rsqrt(wide.square().mean(channel_dim, keepdim=True) + eps)


def rms_norm(x: Tensor, channel_dim: int = -1, eps: float = 1e-6) -> Tensor:
    """Divide by the root mean square over the channels, with no gain, in the dtype of x.

    The scale is marked as `routing`: it decides how much of x there is, not what.
    """
    wide = x.to(working_dtype(x))
    return (wide * routing(key_statistic(wide, channel_dim, eps))).to(x.dtype)


def project(x: Tensor, weight: Tensor, channel_dim: int = -1) -> Tensor:
    """Map the channels of x by a matrix (out, D), in the dtype of x."""
    weight = weight.to(x.dtype)
    if channel_dim == -1:
        return F.linear(x, weight)
    return F.linear(x.movedim(channel_dim, -1), weight).movedim(-1, channel_dim)


def weighted_sum(weights: Iterable[Tensor], values: Iterable[Tensor]) -> Tensor:
    """Return Σ_i w_i v_i in the dtype of the first value.

    Args:
        weights: n tensors that broadcast over a value, in the dtype to sum in.
        values: As many tensors of one shape.
    """
    (weight, value), *rest = zip(weights, values, strict=True)
    total, dtype = weight * value, value.dtype
    for weight, value in rest:
        total = total + weight * value
    return total.to(dtype)
