"""Operations that are affine in their recorded operands, with fixed weights."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....layers.lipschitz.proof.norms import gamma
from ..maps import MatrixMap
from ..operators import Blocks, Gather
from ..tape import Argument, Linear, Piece
from .call import Call, broadcast, operation, stop
from .pairs import known_pair

__all__ = ["rounded", "rows_of"]

PRODUCT = "multiplies two values that both depend on the samples; no bound holds for all inputs"


@operation("aten.add", "aten.sub", "aten.rsub")
def added(call: Call) -> Piece:
    """Add with signs."""
    first, other, alpha = call["self"], call["other"], call["alpha"]
    name = str(call.func)
    factors = {"aten.add": (1, alpha), "aten.sub": (1, -alpha), "aten.rsub": (-alpha, 1)}
    own, its = factors[name.rpartition(".")[0]]
    shape = torch.broadcast_shapes(_shape(first), _shape(other))
    parts = []
    for value, factor in ((first, own), (other, its)):
        if isinstance(value, Argument):
            scale = None if factor == 1 else torch.tensor(float(factor), dtype=torch.float64)
            parts.append(broadcast(value, shape, scale))
    fixed = not all(isinstance(v, Argument) for v in (first, other))
    return Linear(parts, shape, call.constant() if fixed else None)


@operation("aten.mul", "aten.div.Tensor", "aten.div.Scalar")
def scaled(call: Call) -> Piece:
    """Multiply by, or divide by, numbers."""
    first, other = call["self"], call["other"]
    divides = str(call.func).startswith("aten.div")
    if len(call.recorded) != 1:
        return known_pair(call) or stop(PRODUCT)
    shape = torch.broadcast_shapes(_shape(first), _shape(other))
    if not isinstance(first, Argument):
        if divides:
            return stop("divides by a value of the samples, which may be zero")
        first, other = other, first
    number = torch.as_tensor(other, dtype=torch.float64)
    if divides:
        if not bool((number != 0).all()):
            return stop("divides by zero")
        return Linear([rounded(broadcast(first, shape, 1 / number), 1)], shape)
    return Linear([broadcast(first, shape, number)], shape)


@operation("aten.neg")
def negated(call: Call) -> Piece:
    """Turn the sign."""
    first = call["self"]
    return Linear([broadcast(first, first.shape, torch.tensor(-1.0).double())], first.shape)


@operation("aten.lerp.Scalar", "aten.lerp.Tensor")
def mixed(call: Call) -> Piece:
    """Mix two values with fixed weights."""
    start, end, weight = call["self"], call["end"], call["weight"]
    if not call.are("self", "end"):
        return stop(PRODUCT)
    weight = torch.as_tensor(weight, dtype=torch.float64)
    shape = torch.broadcast_shapes(_shape(start), _shape(end), weight.shape)
    parts = [
        rounded(broadcast(value, shape, scale), 1)
        for value, scale in ((start, 1 - weight), (end, weight))
        if isinstance(value, Argument)
    ]
    return Linear(parts, shape, call.constant() if len(parts) == 1 else None)


@operation("aten.addcmul", "aten.addcdiv")
def added_scaled(call: Call) -> Piece:
    """Add a product, or a quotient, of which one factor is fixed."""
    base, one, two = call["self"], call["tensor1"], call["tensor2"]
    value = torch.tensor(float(call["value"]), dtype=torch.float64)
    divides = "addcdiv" in str(call.func)
    if isinstance(one, Argument) and isinstance(two, Argument):
        return stop(PRODUCT)
    if divides and isinstance(two, Argument):
        return stop("divides by a value of the samples, which may be zero")
    shape = torch.broadcast_shapes(_shape(base), _shape(one), _shape(two))
    parts = [broadcast(base, shape)] if isinstance(base, Argument) else []
    if isinstance(one, Argument) or isinstance(two, Argument):
        x: Any = one if isinstance(one, Argument) else two
        factor: Any = two if isinstance(one, Argument) else one
        if divides and not bool((factor != 0).all()):
            return stop("divides by zero")
        scale = value / factor if divides else value * factor
        parts.append(rounded(broadcast(x, shape, scale), 1))
    return Linear(parts, shape, call.constant() if len(parts) == 1 else None)


@operation("aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.linear")
def product(call: Call) -> Piece:
    """Multiply by a fixed matrix."""
    values = list(call.values.values())
    if str(call.func).startswith("aten.linear"):
        x, weight, bias = call["input"], call["weight"], call["bias"]
        if not call.are("input"):
            return stop(PRODUCT)
        part, shape = _times(x, weight.mT)
        constant = None if bias is None else bias.expand(shape)
        return Linear([part], shape, constant)
    if len(call.recorded) != 1:
        return stop(PRODUCT)
    part, shape = _times(values[0], values[1])
    return Linear([part], shape)


@operation("aten.addmm", "aten.baddbmm", "aten.addmv")
def added_product(call: Call) -> Piece:
    """Multiply by a fixed matrix and add."""
    names = [a.name for a in call.func._schema.arguments][:3]
    base, left, right = (call[name] for name in names)
    alpha, beta = float(call["alpha"]), float(call["beta"])
    products = [v for v in (left, right) if isinstance(v, Argument)]
    if len(products) > 1:
        return stop(PRODUCT)
    shape = call.run(lambda a: torch.zeros(a.shape, dtype=torch.float64)).shape
    parts = []
    if products:
        part, shape = _times(left, right, alpha)
        parts.append(part)
    if isinstance(base, Argument):
        parts.append(broadcast(base, shape, torch.tensor(beta, dtype=torch.float64)))
    fixed = not (isinstance(base, Argument) and products)
    return Linear(parts, shape, call.constant() if fixed else None)


@operation("aten.mean", "aten.sum")
def reduced(call: Call) -> Piece:
    """Average or add up over fixed axes."""
    x = call["self"]
    dims = call.values.get("dim")
    dims = list(range(len(x.shape))) if dims is None or dims == [] else list(dims)
    found = call.run(lambda a: torch.zeros(a.shape, dtype=torch.float64))
    rows, shape = rows_of(x, dims)
    count = rows.shape[1]
    if not count:
        return stop("reduces nothing")
    mean = str(call.func).startswith("aten.mean")
    value = 1 / count if mean else 1.0
    weight = torch.full((1, count), value, dtype=torch.float64)
    error = gamma(2) * math.sqrt(count) * value if mean else 0.0
    outputs = torch.arange(len(rows)).view(-1, 1)
    operator = Blocks(MatrixMap(weight, error), rows, outputs, x.places.numel(), len(rows))
    return Linear([(x, operator)], found.shape)


@operation("aten.cumsum")
def running_sum(call: Call) -> Piece:
    """Add up along an axis."""
    return _each_row(call, call["self"], call["dim"])


def _each_row(call: Call, x: Argument, dim: int) -> Piece:
    """Apply an operation along one axis to the identity, and the matrix to each row."""
    rows, _ = rows_of(x, [dim])
    count = rows.shape[1]
    eye = torch.eye(count, dtype=torch.float64)
    weight = call.run(lambda a: eye, dim=1).mT.contiguous()
    shape = list(x.shape)
    outputs = torch.arange(x.places.numel()).view(x.shape).movedim(dim, -1).reshape(-1, count)
    operator = Blocks(MatrixMap(weight), rows, outputs, x.places.numel(), x.places.numel())
    return Linear([(x, operator)], shape)


def rows_of(x: Argument, dims: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Return the elements of each row along some axes (T, I), and the shape that is left."""
    ids = torch.arange(x.places.numel()).view(x.shape)
    dims = [d % max(1, ids.dim()) for d in dims]
    rest = [d for d in range(ids.dim()) if d not in dims]
    if not ids.dim():
        return ids.view(1, 1), ()
    left = tuple(ids.shape[d] for d in rest)
    return ids.permute(*rest, *dims).reshape(math.prod(left), -1), left


def _times(left: Any, right: Any, alpha: float = 1.0) -> tuple[Any, tuple[int, ...]]:
    """Return the part of a product with one recorded factor, and its shape."""
    turned = isinstance(right, Argument)
    x, weight = (right, left) if turned else (left, right)
    ids = torch.arange(x.places.numel()).view(x.shape)
    vector, thin = ids.dim() == 1, weight.dim() == 1
    if turned:
        ids = ids.unsqueeze(-1).mT if vector else ids.mT  # columns become rows
        weight = weight.unsqueeze(0) if thin else weight
    else:
        ids = ids.unsqueeze(0) if vector else ids
        weight = weight.unsqueeze(0) if thin else weight.mT
    inputs = ids.reshape(-1, ids.shape[-1])
    if weight.dim() > 2:
        weight = _of_each(weight, ids)
    lost = 0.0
    if alpha != 1.0:
        weight = alpha * weight
        lost = gamma(1) * float(weight.norm()) * 1.01
    out = weight.shape[-2]
    count = len(inputs) * out
    outputs = torch.arange(count).view(*ids.shape[:-1], out)
    shape = outputs.mT.shape if turned else outputs.shape
    if turned:
        outputs = torch.arange(count).view(shape).mT
    operator = Blocks(
        MatrixMap(weight, lost), inputs, outputs.reshape(-1, out), x.places.numel(), count
    )
    shape = tuple(shape)
    if vector:
        shape = shape[:-1] if turned else shape[1:]
    if thin:
        shape = shape[1:] if turned else shape[:-1]
    return (x, operator), shape


def _of_each(weight: Tensor, ids: Tensor) -> Tensor:
    """Return one matrix for all rows of a batch, where they are equal, or one for each row."""
    flat = weight.reshape(-1, *weight.shape[-2:])
    if bool((flat == flat[:1]).all()):
        return flat[0]
    return flat.repeat_interleave(ids.shape[-2], 0)


def rounded(part: tuple[Argument, Gather], roundings: int) -> tuple[Argument, Gather]:
    """Note how many roundings the scale of a part has gone through."""
    argument, operator = part
    return argument, Gather(operator.index, operator.scale, operator.columns, roundings)


def _shape(value: Any) -> torch.Size:
    return value.shape if isinstance(value, (Argument, Tensor)) else torch.Size()
