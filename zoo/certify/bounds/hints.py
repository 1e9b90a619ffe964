"""Constants of stretches that have one by construction, proved on what was recorded.

Nothing of a layer is believed but its multipliers, which are a hint: the matrices are those of the
recorded stretch, whatever hooks, subclasses and casts made of them, and the inequality is proved
for these. Where it fails the stretch has no bound here, and the others hold.
"""

import math

import torch
from torch import Tensor

from ....layers.lipschitz import LipschitzLayer, LMIBlock, ShearWeight
from ....layers.lipschitz.proof.constant import shear_lipschitz, verified_lipschitz
from ....layers.lipschitz.proof.norms import wide
from ..graph import Affine, Elementwise, Graph
from ..maps import ConvMap, SpectralMap
from ..operators import Blocks, Gather
from .dense import dense_segment, order

__all__ = ["by_frequencies", "by_multipliers", "shear"]

WIDEST = 4096  # order of the inequality whose multipliers are given


def by_multipliers(graph: Graph, start: int, end: int, layer: LipschitzLayer) -> float:
    """Return the constant that a layer's multipliers prove for a stretch, or infinity."""
    if order(graph, start, end) > WIDEST:
        return math.inf
    with torch.no_grad():
        weights = layer.effective()
    if not isinstance(weights, LMIBlock):
        return math.inf
    segment = dense_segment(graph, start, end)
    given = [wide(m).real for m in weights.multipliers]
    sizes = [graph.nodes[n].size for n in segment.signals]
    if [len(m) for m in given] != sizes or any(m.dim() != 1 for m in given):
        return math.inf
    return segment.verified(given)


def shear(graph: Graph, start: int, end: int, layer: LipschitzLayer | None = None) -> float:
    """Return the constant of x -> a x + Dᵀ σ(C x) with zero-padded convolutions, or infinity.

    Multipliers are those of the layer, and those that fit the two kernels best.
    """
    node = graph.nodes[end]
    if not isinstance(node, Affine) or len(node.terms) != 2:
        return math.inf
    skip = [op for source, op in node.terms if source == start and isinstance(op, Gather)]
    taps = [(s, op) for s, op in node.terms if s != start and isinstance(op, Blocks)]
    if len(skip) != 1 or len(taps) != 1 or not skip[0].identity or skip[0].rounded:
        return math.inf
    source, outer = taps[0]
    atom = graph.nodes[source]
    if not isinstance(atom, Elementwise) or not _unit_slopes(atom):
        return math.inf
    pre = graph.nodes[atom.source]
    if not isinstance(pre, Affine) or len(pre.terms) != 1 or pre.terms[0][0] != start:
        return math.inf
    inner = pre.terms[0][1]
    a = skip[0].scale
    if a is not None and not bool((a == a[0]).all()):
        return math.inf
    c, d = _plain(inner, False), _plain(outer, True)
    if c is None or d is None:
        return math.inf
    if c.weight.shape != d.weight.shape or c.padding != d.padding:
        return math.inf
    if c.padding[0] != c.padding[1] or c.rounded or d.rounded:
        return math.inf
    factor = 1.0 if a is None else float(a[0])
    best = math.inf
    square = c.weight.flatten(1).square().sum(1)
    fitted = -factor * (c.weight * d.weight).flatten(1).sum(1) / square.clamp_min(1e-300)
    options = [fitted]
    if layer is not None:
        with torch.no_grad():
            weights = layer.effective()
        if isinstance(weights, ShearWeight):
            options.insert(0, wide(weights.multipliers))
    for multipliers in options:
        if multipliers.shape == square.shape and bool((multipliers > 0).all()):
            block = ShearWeight(factor, c.weight, d.weight, multipliers, c.padding[0])
            best = min(best, shear_lipschitz(block, c.size))
            if best < math.inf:
                break
    return best


def by_frequencies(graph: Graph, start: int, end: int, layer: LipschitzLayer) -> float:
    """Return the constant of a stretch of circular convolutions, frequency by frequency, or ∞.

    y = A x + B w_n, w_k = σ(C_k w_{k−1}), on a grid that the image may be placed in with zeros
    around it and cropped from. Multipliers are one number for each channel, so that the inequality
    falls apart into one for each frequency.
    """
    node = graph.nodes[end]
    with torch.no_grad():
        weights = layer.effective()
    if not isinstance(node, Affine) or not isinstance(weights, LMIBlock):
        return math.inf
    taps = [(source, _circular(op)) for source, op in node.terms if source != start]
    if len(taps) != 1:
        return math.inf
    at, tap = taps[0]
    if tap is None:
        return math.inf
    inner = []
    while at != start:
        atom = graph.nodes[at]
        if not isinstance(atom, Elementwise) or not _unit_slopes(atom):
            return math.inf
        pre = graph.nodes[atom.source]
        if not isinstance(pre, Affine) or len(pre.terms) != 1:
            return math.inf
        at, found = pre.terms[0][0], _circular(pre.terms[0][1])
        if found is None or not found.write.identity:
            return math.inf
        inner.insert(0, found)
    placed = inner[0].inputs
    whole = all(op.read.identity for op in (*inner[1:], tap))
    if not whole or not _cropped(placed, tap.outputs, node.size):
        return math.inf
    skip = _skip(node, start, placed, tap.outputs, weights.skip.shape)
    given = tuple(wide(m).real for m in weights.multipliers)
    if skip is None or [len(m) for m in given] != [op.base.weight.shape[-2] for op in inner]:
        return math.inf
    block = LMIBlock(
        skip, tuple(op.base.weight for op in inner), (*[None] * (len(inner) - 1), tap.base.weight),
        given,
    )  # fmt: skip
    return verified_lipschitz(block)


def _circular(operator: object) -> Blocks | None:
    """Return an operator that is one circular convolution."""
    if not isinstance(operator, Blocks) or not isinstance(operator.base, SpectralMap):
        return None
    return operator if len(operator.inputs) == 1 and operator.read.norm <= 1.0 else None


def _cropped(placed: Tensor, outputs: Tensor, size: int) -> bool:
    """Whether each output is written once."""
    used = outputs[outputs >= 0]
    return len(used) == size == len(used.unique())


def _skip(
    node: Affine, start: int, placed: Tensor, outputs: Tensor, shape: torch.Size
) -> Tensor | None:
    """Return A as transfer matrices: a multiple of the identity, or a circular convolution."""
    skips = [op for source, op in node.terms if source == start]
    if len(skips) != 1:
        return None
    (only,) = skips
    if isinstance(only, Gather):
        # The image stands where it is cropped from.
        there = placed.shape == outputs.shape and torch.equal(placed, outputs)
        a = only.scale
        uniform = a is None or bool((a == a[0]).all())
        if not (there and only.identity and uniform and not only.rounded):
            return None
        channels = shape[-1]
        eye = torch.eye(channels, dtype=torch.complex128)
        return eye if a is None else eye * float(a[0])
    found = _circular(only)
    if found is None or not torch.equal(found.inputs, placed):
        return None
    return found.base.weight if torch.equal(found.outputs, outputs) else None


def _unit_slopes(atom: Elementwise) -> bool:
    return bool((atom.low >= 0).all()) and bool((atom.high <= 1).all())


def _plain(operator: object, transposed: bool) -> ConvMap | None:
    """Return the convolution of an operator that reads and writes one whole image in order."""
    if not isinstance(operator, Blocks) or not isinstance(operator.base, ConvMap):
        return None
    base = operator.base
    whole = operator.read.identity and operator.write.identity and len(operator.inputs) == 1
    simple = base.groups == 1 and set(base.stride) == {1} == set(base.dilation)
    two = len(base.size) == 2 and not any(base.output_padding)
    return base if whole and simple and two and base.transposed == transposed else None
