"""Pools: averages are linear maps that factor over the axes, a maximum reads its window."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ....layers.lipschitz.proof.norms import gamma, product_up, root_up, spectral_bound
from .calculus import Bound, Walk, rule

__all__ = ["mean_bound"]


def mean_bound(count: int) -> float:
    """Return 1/√count, the norm of a mean over `count` values."""
    return math.nextafter(1 / math.sqrt(count), math.inf)


@rule(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def average(walk: Walk, module: Any, name: str) -> Bound:
    """Bound an average pool, exactly: the product of the norms of its one-dimensional maps."""
    if getattr(module, "divisor_override", None) is not None:
        return walk.refuse(name, "an average pool with divisor_override has no rule")

    def axis(n: int, k: int, s: int, p: int) -> torch.Tensor:
        identity = torch.eye(n, dtype=torch.float64).unsqueeze(1)
        options = (module.ceil_mode, module.count_include_pad)
        return F.avg_pool1d(identity, k, s, p, *options).squeeze(1).mT

    return _separable(walk, module, name, axis, (module.kernel_size, module.stride, module.padding))


@rule(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def adaptive_average(walk: Walk, module: Any, name: str) -> Bound:
    """Bound an adaptive average pool in the same way."""

    def axis(n: int, size: int | None) -> torch.Tensor:
        identity = torch.eye(n, dtype=torch.float64).unsqueeze(1)
        return F.adaptive_avg_pool1d(identity, n if size is None else size).squeeze(1).mT

    return _separable(walk, module, name, axis, (module.output_size,))


@rule(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def maximum(walk: Walk, module: Any, name: str) -> Bound:
    """Bound a max pool by the root of how many windows share a pixel."""
    spaces = len(next(iter(walk.sight(module).inputs), (0, 0, 0))) - 1
    options = (module.kernel_size, module.stride, module.dilation)
    cover = 1
    for k, s, d in zip(*(_each(option, spaces) for option in options), strict=True):
        cover *= -(-k // s) if d == 1 else k
    return Bound(root_up(cover) if cover > 1 else 1.0)


def _separable(walk: Walk, module: Any, name: str, axis: Any, options: tuple[Any, ...]) -> Bound:
    sight = walk.sight(module)
    if not sight.inputs:
        return walk.refuse(name, "the module was not called, so its image size is unknown")
    best, length = 0.0, 1
    for shape in sight.inputs:
        spaces = len(shape) - 1
        each = [_each(option, spaces) for option in options]
        norms = []
        for place, n in enumerate(shape[1:]):
            matrix = axis(n, *(option[place] for option in each))
            norms.append(spectral_bound(matrix, error=gamma(4) * float(matrix.norm()) * 1.01))
            length = max(length, n)
        best = max(best, product_up(*norms))
    return Bound(best, product_up(gamma(2 * length**2 + 16), sight.read))


def _each(value: Any, spaces: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * spaces
