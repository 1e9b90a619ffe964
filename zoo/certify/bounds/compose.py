"""Operators composed with one another, and summed, where the result is one operator again."""

# Shape letters: T groups.

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma
from ..maps import ConvMap, MatrixMap
from ..operators import Base, Blocks, Gather, Operator

__all__ = ["Terms", "after", "identity", "is_plain", "merged"]

Terms = list[tuple[int, Operator]]


def merged(terms: Terms) -> Terms:
    """Write movements from one station to different places, and sums of matrices, as one."""
    found: Terms = []
    for number, operator in terms:
        for place, (other, before) in enumerate(found):
            if other == number:
                both = None
                if isinstance(operator, Gather) and isinstance(before, Gather):
                    both = _union(before, operator)
                elif isinstance(operator, Blocks) and isinstance(before, Blocks):
                    both = _added(before, operator)
                if both is not None:
                    found[place] = (number, both)
                    break
        else:
            found.append((number, operator))
    return found


def _union(a: Gather, b: Gather) -> Gather | None:
    """Return the sum of two movements, where no place is written by both from two others."""
    both = (a.index >= 0) & (b.index >= 0)
    if bool((a.index[both] != b.index[both]).any()):
        return None
    index = torch.maximum(a.index, b.index)
    rounded = max(a.rounded, b.rounded)
    if a.scale is None and b.scale is None and not bool(both.any()):
        return Gather(index, None, a.columns)
    scale = sum(_scales(g) * (g.index >= 0) for g in (a, b))
    assert isinstance(scale, Tensor)
    if bool(both.any()):
        cancels = (scale.abs() < 0.5 * (_scales(a).abs() + _scales(b).abs())) & both
        if bool(cancels.any()):
            return None  # its rounding is no share of it
        rounded = 2 * rounded + 2
    return Gather(index, scale, a.columns, rounded)


def after(outer: Operator, inner: Operator) -> Operator | None:
    """Return outer ∘ inner as one operator, or None where that is none of the two kinds."""
    if isinstance(outer, Gather) and isinstance(inner, Gather):
        index = _looked_up(inner.index, outer.index)
        if outer.scale is None and inner.scale is None:
            return Gather(index, None, inner.columns)
        ones = torch.ones(inner.rows + 1, dtype=torch.float64)
        if inner.scale is not None:
            ones[:-1] = inner.scale
        scale = ones[outer.index] * _scales(outer)
        rounded = outer.rounded + inner.rounded
        rounded += 1 if outer.scale is not None and inner.scale is not None else 0
        return Gather(index, scale, inner.columns, rounded)
    if isinstance(outer, Gather) and isinstance(inner, Blocks):
        return _moved(outer, inner)
    if isinstance(outer, Blocks) and isinstance(inner, Gather):
        return _read(outer, inner)
    assert isinstance(outer, Blocks) and isinstance(inner, Blocks)
    return _multiplied(outer, inner)


def _multiplied(outer: Blocks, inner: Blocks) -> Blocks | None:
    """Multiply two matrices that stand behind one another in the same groups."""
    a, b = outer.base, inner.base
    if not isinstance(a, MatrixMap) or not isinstance(b, MatrixMap):
        return None
    if a.weight.dim() != 2 or b.weight.dim() != 2:
        return None
    if not torch.equal(outer.inputs, inner.outputs) or bool((inner.outputs < 0).any()):
        return None
    weight = a.weight @ b.weight
    sizes = float(a.weight.norm()), float(b.weight.norm())
    error = gamma(a.weight.shape[1] + 2) * sizes[0] * sizes[1]
    error += sizes[0] * b.error + a.error * sizes[1] + a.error * b.error
    return Blocks(
        MatrixMap(weight, error * (1 + 1e-6)), inner.inputs, outer.outputs, inner.columns,
        outer.rows,
    )  # fmt: skip


def _added(a: Blocks, b: Blocks) -> Blocks | None:
    """Add two matrices that read and write the same groups."""
    one, two = a.base, b.base
    if not isinstance(one, MatrixMap) or not isinstance(two, MatrixMap):
        return None
    if one.weight.shape != two.weight.shape or one.weight.dim() != 2:
        return None
    if not (torch.equal(a.inputs, b.inputs) and torch.equal(a.outputs, b.outputs)):
        return None
    weight = one.weight + two.weight
    error = (one.error + two.error + gamma(1) * float(weight.norm())) * (1 + 1e-6)
    return Blocks(MatrixMap(weight, error), a.inputs, a.outputs, a.columns, a.rows)


def _moved(outer: Gather, inner: Blocks) -> Blocks | None:
    """Move the outputs of blocks, and scale them where that is one number for each channel."""
    used = outer.index[outer.index >= 0]
    if len(used.unique()) != len(used):
        return None
    back = torch.full((inner.rows + 1,), -1)
    back[used] = (outer.index >= 0).nonzero().squeeze(1)
    outputs = back[inner.outputs]  # the last entry stands for −1
    base = inner.base
    if outer.scale is not None:
        scales = torch.cat([outer.scale, outer.scale.new_full((1,), torch.nan)])[outputs]
        found = _scaled(base, scales, outer.rounded)
        if found is None:
            return None
        base = found
    return Blocks(base, inner.inputs, outputs, inner.columns, outer.rows)


def _scaled(base: Base, scales: Tensor, rounded: int) -> Base | None:
    """Scale the outputs of a map; NaN stands for outputs that nothing reads."""
    if isinstance(base, ConvMap):
        grouped = scales.view(len(scales), base.out_shape[0], -1).transpose(0, 1).flatten(1)
    elif isinstance(base, MatrixMap) and base.weight.dim() == 2:
        grouped = scales.mT
    else:
        return None
    known = ~grouped.isnan()
    if not bool(known.any(1).all()):
        grouped = grouped.where(known.any(1, keepdim=True), 0.0)
        known = ~grouped.isnan()
    first = grouped.gather(1, known.long().argmax(1, keepdim=True))
    if not bool(((grouped == first) | ~known).all()):
        return None
    factors = first.squeeze(1)
    if isinstance(base, ConvMap):
        return base.scaled(factors, rounded)
    weight = base.weight * factors[:, None]
    most = float(factors.abs().max())
    error = gamma(rounded + 1) * float(weight.norm()) * 1.01 + 1.01 * most * base.error
    return MatrixMap(weight, error)


def _read(outer: Blocks, inner: Gather) -> Blocks | None:
    """Read the inputs of blocks from elsewhere, scaled by one number for each channel."""
    inputs = _looked_up(inner.index, outer.inputs)
    base = outer.base
    if inner.scale is not None:
        padded = torch.cat([inner.scale, inner.scale.new_full((1,), torch.nan)])
        scales = padded[outer.inputs]
        found = _columns_scaled(base, scales, inner.rounded)
        if found is None:
            return None
        base = found
    return Blocks(base, inputs, outer.outputs, inner.columns, outer.rows)


def _columns_scaled(base: Base, scales: Tensor, rounded: int) -> Base | None:
    if isinstance(base, ConvMap):
        grouped = scales.view(len(scales), base.channels, -1).transpose(0, 1).flatten(1)
    elif isinstance(base, MatrixMap) and base.weight.dim() == 2:
        grouped = scales.mT
    else:
        return None
    known = ~grouped.isnan()
    first = grouped.gather(1, known.long().argmax(1, keepdim=True))
    first = first.where(known.any(1, keepdim=True), 0.0)
    if not bool(((grouped == first) | ~known).all()):
        return None
    factors = first.squeeze(1)
    if isinstance(base, ConvMap):
        return base.read_scaled(factors, rounded)
    weight = base.weight * factors
    most = float(factors.abs().max())
    error = gamma(rounded + 1) * float(weight.norm()) * 1.01 + 1.01 * most * base.error
    return MatrixMap(weight, error)


def is_plain(operator: Gather) -> bool:
    """Whether a movement scales all that it moves by one number."""
    return operator.scale is None or bool((operator.scale == operator.scale[:1]).all())


def _scales(operator: Gather) -> Tensor:
    ones = torch.ones(operator.rows, dtype=torch.float64)
    return ones if operator.scale is None else operator.scale


def _looked_up(places: Tensor, index: Tensor) -> Tensor:
    return torch.cat([places, places.new_full((1,), -1)])[index]


def identity(size: int) -> Gather:
    """Return the operator that changes nothing."""
    return Gather(torch.arange(size), None, size)
