"""Layers that are Lipschitz by construction, checked on the weights that their forward uses.

The nominal constant is never believed: it is a statement about real arithmetic, and the deployed
weights are rounded, or may have been changed. What is returned is the constant that is proved for
`effective()`.
"""

import math

import torch
from torch import nn

from ....layers.lipschitz import (
    ConvWeight,
    FrequencyWeight,
    LinearWeight,
    LipschitzLayer,
    LMIBlock,
    ShearWeight,
)
from ....layers.lipschitz.isometry import (
    GlobalScaledPool,
    PadChannels,
    ScaledAvgPool2d,
    SpaceToDepth,
)
from ....layers.lipschitz.lipschitz_activation import GroupSort, MaxMin
from ....layers.lipschitz.plain_modules import PlainBlock, PlainShear, Scale
from ....layers.lipschitz.proof.constant import shear_lipschitz, verified_lipschitz
from ....layers.lipschitz.proof.multipliers import lmi_lipschitz
from ....layers.lipschitz.proof.norms import (
    conv_bound,
    gamma,
    product_up,
    spectral_bound,
    sum_up,
    wide,
)
from .calculus import Bound, Walk, rule
from .elementwise import slopes
from .linear_chain import WIDEST

__all__ = ["effective_bound"]

FAR = 1 + 1e-3  # above this share of its constant a layer is not what it says
SEARCHED = 256  # order of the inequality of a sound block that is searched for less than it says
PACKAGE = LipschitzLayer.__module__.rpartition(".")[0]


@rule(LipschitzLayer, subclasses=True)
def by_construction(walk: Walk, module: LipschitzLayer, name: str) -> Bound:
    """Prove a layer's constant, or take it at its word where the walk does not verify."""
    kind = type(module)
    if not kind.__module__.startswith(PACKAGE):
        return walk.refuse(name, f"{kind.__name__} is a layer that the calculus has no rule for")
    with torch.no_grad():
        weights = module.effective()
    sight = walk.sight(module)
    error = _error(walk, module, weights)
    if not walk.verify:
        walk.note(name, module.lipschitz, "construction", False)
        return Bound(module.lipschitz, error)
    if len(sight.inputs) > 1 and any(t.is_complex() for t in _tensors(weights)):
        return walk.refuse(name, f"{kind.__name__} has weights for one image size and saw several")
    lipschitz = 0.0
    for size in {shape[1:] for shape in sight.inputs} or {()}:
        found = effective_bound(weights, size, module.lipschitz, search=walk.method != "product")
        if found is None:
            return walk.refuse(name, "the module was not called, so its image size is unknown")
        lipschitz = max(lipschitz, found)
    if lipschitz == math.inf:
        return walk.refuse(name, f"the inequality of {kind.__name__} holds for no constant")
    close = lipschitz <= module.lipschitz * FAR
    walk.note(name, lipschitz, "construction" if close else "lmi")
    return Bound(lipschitz, error)


@rule(Scale)
def scale(walk: Walk, module: Scale, name: str) -> Bound:
    """Bound a factor by its size."""
    return Bound(module.lipschitz, product_up(gamma(1), walk.sight(module).returned))


@rule(GroupSort, MaxMin, SpaceToDepth, PadChannels)
def moved(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Bound what sorts, moves or pads values by 1."""
    return Bound(1.0)


@rule(ScaledAvgPool2d, GlobalScaledPool)
def scaled_pool(walk: Walk, module: nn.Module, name: str) -> Bound:
    """Bound sums over disjoint sets of n values, divided by √n, by 1."""
    sight = walk.sight(module)
    count = max((math.prod(shape) for shape in sight.inputs), default=1)
    return Bound(1.0, product_up(gamma(2 * count + 8), sight.read))


@rule(PlainBlock)
def plain_block(walk: Walk, module: PlainBlock, name: str) -> Bound:
    """Bound an exported block by the inequality, its multipliers searched anew."""
    found, inner = slopes(module.activation), [_matrix(c) for c in module.inner]
    taps = [_matrix(t) if on else None for t, on in zip(module.taps, module.tapped, strict=True)]
    rows = next(t.shape[0] for t in taps if t is not None)
    columns = inner[0].shape[1]
    if found is None or found.least < 0.0 or found.most > 1.0:
        kind = type(module.activation).__name__
        return walk.refuse(name, f"{kind} has slopes outside [0, 1] inside a block")
    if isinstance(module.skip, Scale):
        skip = module.skip.factor * torch.eye(rows, columns, dtype=torch.float64)
    elif isinstance(module.skip, nn.Linear):
        skip = _matrix(module.skip)
    elif module.skip is None or isinstance(module.skip, nn.Identity):
        skip = torch.eye(rows, columns, dtype=torch.float64) * (module.skip is not None)
    else:
        return walk.refuse(name, f"{type(module.skip).__name__} is a skip that has no rule")
    lipschitz = lmi_lipschitz(skip, inner, taps)
    block = LMIBlock(skip, tuple(inner), tuple(taps), ())
    error = _error(walk, module, block)
    if lipschitz == math.inf:
        return walk.refuse(name, "no multipliers were found that prove a constant")
    walk.note(name, lipschitz, "lmi")
    return Bound(lipschitz, error)


@rule(PlainShear)
def plain_shear(walk: Walk, module: PlainShear, name: str) -> Bound:
    """Bound an exported convolutional block, with the multipliers that fit its two kernels best."""
    found, skip = slopes(module.activation), module.scale.factor
    if found is None or found.least < 0.0 or found.most > 1.0:
        kind = type(module.activation).__name__
        return walk.refuse(name, f"{kind} has slopes outside [0, 1] inside a block")
    inner = module.inner.weight.detach().double()
    outer = module.outer.weight.detach().double()
    sizes = {shape[1:] for shape in walk.sight(module).inputs}
    if not sizes:
        return walk.refuse(name, "the module was not called, so its image size is unknown")
    square = inner.flatten(1).square().sum(1)
    fitted = -skip * (inner * outer).flatten(1).sum(1) / square.clamp_min(1e-300)
    weights = ShearWeight(skip, inner, outer, fitted, int(module.inner.padding[0]))
    lipschitz = 0.0
    for size in sizes:
        norms = product_up(conv_bound(inner, size), conv_bound(outer, size))
        proved = shear_lipschitz(weights, size) if bool((fitted > 0).all()) else math.inf
        lipschitz = max(lipschitz, min(proved, sum_up(abs(skip), norms)))
    error = _error(walk, module, weights)
    walk.note(name, lipschitz, "lmi")
    return Bound(lipschitz, error)


def _matrix(linear: nn.Module) -> torch.Tensor:
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach().double()


def effective_bound(
    weights: object, size: tuple[int, ...], nominal: float = math.inf, *, search: bool = True
) -> float | None:
    """Return the constant that is proved for plain weights.

    Args:
        weights: What `effective()` returned.
        size: Height and width of the images that a convolution reads.
        nominal: What the layer says: where its own multipliers prove clearly less, others are
            searched.
        search: Whether others are searched too where its own prove what it says.

    Returns:
        The constant; None where the weights need a size and there is none.
    """
    if isinstance(weights, LMIBlock):
        own = verified_lipschitz(weights)
        widest = WIDEST if own > nominal * FAR else SEARCHED if search else 0
        return min(own, searched(weights, own)) if sum(weights.widths) <= widest else own
    if isinstance(weights, LinearWeight):
        return spectral_bound(weights.weight)
    if isinstance(weights, FrequencyWeight):
        return spectral_bound(weights.weight)
    if isinstance(weights, ConvWeight):
        return conv_bound(weights.weight, size) if len(size) == 2 else None
    if isinstance(weights, ShearWeight):
        return shear_lipschitz(weights, size) if len(size) == 2 else None
    return math.inf


def _tensors(weights: object) -> list[torch.Tensor]:
    parts = weights if isinstance(weights, tuple) else ()
    flat = [t for part in parts for t in (part if isinstance(part, tuple) else (part,))]
    return [t for t in flat if isinstance(t, torch.Tensor) and t.dim() > 1]


def searched(block: LMIBlock, own: float) -> float:
    """Search for multipliers that prove less than a block's own, or return ∞.

    With more than one inner layer there often are some: a construction satisfies its inequality
    with the multipliers it was built from, and seldom with the best of its weights.
    """
    # Nothing is below the skip, which is what an inactive branch leaves.
    if block.skip.dim() > 2 or float(torch.linalg.matrix_norm(wide(block.skip), 2)) * FAR >= own:
        return math.inf
    return lmi_lipschitz(block.skip, block.inner, block.taps, below=own / FAR)


def _error(walk: Walk, module: nn.Module, weights: object) -> float:
    """Bound the rounding of a layer's evaluation on the samples seen."""
    sight = walk.sight(module)
    size = sum_up(sight.read, sight.returned, *(_bias(m) for m in module.modules()))
    return product_up(gamma(_roundings(weights)), _magnitude(weights), size)


def _roundings(weights: object) -> int:
    """Roundings of one output value, generously: all products of all of a layer's matrices."""
    # One row of a matrix, one filter of a kernel; all of an operator that goes through an FFT.
    lengths = [t[0].numel() for t in _tensors(weights)]
    return 16 * (sum(lengths) + 256)


def _magnitude(weights: object) -> float:
    """A bound of what |W| does in all of a layer's products, one after another."""
    total = 1.0
    for t in _tensors(weights):
        wide = t.detach().abs().double()
        flat = wide if t.dim() == 2 else wide.flatten(2).sum(2) if not t.is_complex() else wide
        total = product_up(total, 1 + float(torch.linalg.matrix_norm(flat).max()) * (1 + 1e-6))
    return total


def _bias(module: nn.Module) -> float:
    """The norm of all biases, were they spread over a thousand places."""
    biases = [p for p in module.parameters(recurse=False) if p.dim() == 1]
    return 32.0 * sum(float(b.detach().double().norm()) for b in biases)
