"""Maps of several values at once with one Lipschitz constant: sorts, maxima, norms, softmax."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ....layers.lipschitz.proof.norms import gamma, product_up, root_up
from ..tape import Argument, Groups, Piece
from .affine import rows_of
from .call import Call, operation, stop

__all__ = ["along", "floored"]

SMOOTH = 2.0**-46  # rounding, as a share of input and output

UNFLOORED = "divides by a norm without a floor; give it an eps above 0"


@operation("aten.sort")
def sort(call: Call) -> Piece:
    """Sorting never moves two vectors apart."""
    down = bool(call["descending"])
    return along(call, call["dim"], 1.0, lambda g: g.sort(-1, descending=down).values, (down,))


@operation("aten.topk")
def topk(call: Call) -> Piece:
    """The first of the sorted values."""
    k, most = int(call["k"]), bool(call["largest"])
    if not call["sorted"]:
        return stop("leaves its values in no order")
    return along(call, call["dim"], 1.0, lambda g: g.topk(k, -1, most).values, (k, most), outputs=k)


@operation("aten.amax", "aten.amin", "aten.max.dim", "aten.min.dim", "aten.max", "aten.min")
def extreme(call: Call) -> Piece:
    """The largest or smallest of a row."""
    if len(call.recorded) > 1 or "other" in call.values:
        return stop("compares two values; use torch.maximum")
    most = "max" in str(call.func)
    dims = call.values.get("dim", [])
    keep = bool(call.values.get("keepdim", False))
    pick: Callable[[Tensor], Tensor] = (
        (lambda g: g.amax(-1, keepdim=True)) if most else (lambda g: g.amin(-1, keepdim=True))
    )
    return along(call, dims, 1.0, pick, (most,), outputs=1, keep=keep)


@operation("aten.logsumexp")
def logsumexp(call: Call) -> Piece:
    """Its gradient is a softmax, of length at most 1."""
    keep = bool(call["keepdim"])
    return along(
        call, call["dim"], 1.0, lambda g: g.logsumexp(-1, keepdim=True), outputs=1, keep=keep
    )


@operation("aten.linalg_vector_norm", "aten.norm.ScalarOpt_dim", "aten.norm.Scalar")
def norm(call: Call) -> Piece:
    """Lengths of rows, by the triangle inequality."""
    order = call.values.get("ord", call.values.get("p"))
    order = 2.0 if order is None else float(order)
    if order < 1.0:
        return stop(f"of order {order} is no norm")
    (x,) = call.recorded
    rows, _ = rows_of(x, _dims(call.values.get("dim"), x))
    # ‖·‖_p ≤ n^(1/p − 1/2) ‖·‖₂ below 2, and ‖·‖₂ above.
    factor = max(1.0, rows.shape[1] ** (1 / order - 0.5)) * (1 + gamma(8))
    lipschitz = 1.0 if order >= 2 else factor
    keep = bool(call.values.get("keepdim", False))
    return along(
        call, call.values.get("dim"), lipschitz,
        lambda g: torch.linalg.vector_norm(g, order, -1, keepdim=True), (order,), outputs=1,
        keep=keep,
    )  # fmt: skip


@operation("aten._softmax", "aten.softmax")
def softmax(call: Call) -> Piece:
    """Its Jacobian is diag(p) − p pᵀ, of norm at most 1/2."""
    return along(call, call["dim"], 0.5, lambda g: g.softmax(-1))


@operation("aten._log_softmax", "aten.log_softmax")
def log_softmax(call: Call) -> Piece:
    """Its Jacobian I − 1 pᵀ is a projector of norm √n ‖p‖."""
    (x,) = call.recorded
    count = x.shape[call["dim"]] if len(x.shape) else 1
    return along(call, call["dim"], root_up(max(1.0, count)), lambda g: g.log_softmax(-1))


@operation("aten.native_layer_norm", "aten._fused_rms_norm")
def layer_norm(call: Call) -> Piece:
    """max|γ|/√ε, which the Jacobian attains at a constant input."""
    if not call.are("input"):
        return stop("has a gain that depends on the samples")
    x = call["input"]
    size = tuple(call["normalized_shape"])
    eps = call["eps"]
    eps = torch.finfo(x.dtype).eps if eps is None else float(eps)
    if not eps > 0:
        return stop(UNFLOORED)
    weight, bias = call["weight"], call.values.get("bias")
    gain = 1.0 if weight is None else float(weight.abs().max())
    count = math.prod(size)
    w = None if weight is None else weight.reshape(-1)
    b = None if bias is None else bias.reshape(-1)
    centred = "layer_norm" in str(call.func)

    def function(g: Tensor) -> Tensor:
        if centred:
            return F.layer_norm(g, (count,), w, b, eps)
        return F.rms_norm(g, (count,), w, eps)

    dims = list(range(len(x.shape) - len(size), len(x.shape)))
    found = along(call, dims, floored(gain, eps), function,
                  (count, eps, _listed(w), _listed(b), centred), argument=x)  # fmt: skip
    return found


@operation("aten.native_group_norm")
def group_norm(call: Call) -> Piece:
    """The same for groups of channels."""
    if not call.are("input"):
        return stop("has a gain that depends on the samples")
    x, groups, eps = call["input"], int(call["group"]), float(call["eps"])
    if not eps > 0:
        return stop(UNFLOORED)
    weight, bias = call["weight"], call["bias"]
    ids = torch.arange(x.places.numel())
    rows = ids.view(x.shape[0] * groups, -1)
    pixels = math.prod(x.shape[2:])

    def spread(v: Tensor | None) -> Tensor | None:
        if v is None:
            return None
        return v.repeat_interleave(pixels).view(groups, -1)

    w, b = spread(weight), spread(bias)

    def function(g: Tensor) -> Tensor:
        found = F.layer_norm(g, g.shape[-1:], eps=eps).unflatten(-2, (-1, groups))
        found = found if w is None else found * w
        return (found if b is None else found + b).flatten(-3, -2)

    gain = 1.0 if weight is None else float(weight.abs().max())
    parameters = (groups, eps, _listed(weight), _listed(bias))
    return Groups([x], rows, ids.view(x.shape), floored(gain, eps), function, SMOOTH, parameters)


@operation(
    "aten.max_pool1d", "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices",
    "aten.max_pool2d", "aten.max_pool3d", "aten.mkldnn_max_pool2d",
)  # fmt: skip
def max_pool(call: Call) -> Piece:
    """A choice in each window: at most as many outputs as windows cover a value take it."""
    x = call["self"] if "self" in call.values else call["input"]
    name = str(call.func)
    axes = next(d for d in (1, 2, 3) if f"pool{d}d" in name)
    options = [_each(call[n], axes) for n in ("kernel_size", "stride", "padding", "dilation")]
    kernel, stride, padding, dilation = options
    stride = stride or kernel
    cover = 1
    for k, s, d in zip(kernel, stride, dilation, strict=True):
        cover *= -(-k // s) if d == 1 else k
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    ceil = bool(call["ceil_mode"])

    def apply(images: Tensor) -> Tensor:
        return pool(images, kernel, stride, padding, dilation, ceil)

    return each_image(x, axes, root_up(cover) if cover > 1 else 1.0, apply,
                      (kernel, stride, padding, dilation, ceil))  # fmt: skip


@operation("aten.adaptive_max_pool2d", "aten.adaptive_max_pool1d", "aten.adaptive_max_pool3d")
def adaptive_max_pool(call: Call) -> Piece:
    """The same where windows overlap by at most one value on each axis."""
    (x,) = call.recorded
    axes = next(d for d in (1, 2, 3) if f"pool{d}d" in str(call.func))
    size = _each(call["output_size"], axes)
    cover = 1
    for n, o in zip(x.shape[-axes:], size, strict=True):
        cover *= 1 if n % o == 0 else 2 if o <= n else -(-o // n) + 1
    pool: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[axes - 1]
    return each_image(x, axes, root_up(cover), lambda images: pool(images, size), (size,))


def each_image(
    x: Argument,
    axes: int,
    lipschitz: float,
    apply: Callable[[Tensor], Tensor],
    parameters: tuple[object, ...],
) -> Groups:
    """Return a pool as one map of each plane of an image."""
    size = x.shape[-axes:]
    planes = x.places.numel() // math.prod(size)
    like = apply(torch.zeros(1, 1, *size, dtype=torch.float64))
    outputs = tuple(like.shape[2:])

    def function(g: Tensor) -> Tensor:
        images = g.reshape(-1, 1, *size)
        return apply(images).reshape(*g.shape[:-1], -1)

    ids = torch.arange(x.places.numel()).view(planes, -1)
    places = torch.arange(planes * math.prod(outputs)).view(*x.shape[:-axes], *outputs)
    return Groups([x], ids, places, lipschitz, function, 0.0, (size, *parameters))


def along(
    call: Call,
    dim: Any,
    lipschitz: float,
    function: Callable[[Tensor], Tensor],
    parameters: tuple[object, ...] = (),
    *,
    outputs: int | None = None,
    keep: bool = True,
    argument: Argument | None = None,
) -> Groups:
    """Return a map of each row along some axes.

    Args:
        call: The operation, with one recorded operand if `argument` is not given.
        dim: The axes; None and nothing are all.
        lipschitz: Of the map of one row.
        function: (…, T, I) -> (…, T, O).
        parameters: What the function is made with.
        outputs: O, for one axis; None is I.
        keep: Whether axes of one output stay.
        argument: The operand.
    """
    x = call.recorded[0] if argument is None else argument
    dims = _dims(dim, x)
    rows, left = rows_of(x, dims)
    if outputs is None:
        # Rows hold their axes last and flattened.
        order = [d for d in range(len(x.shape)) if d not in dims] + dims
        back = [order.index(d) for d in range(len(x.shape))]
        places = torch.arange(x.places.numel()).view([x.shape[d] for d in order]).permute(back)
    else:
        places = torch.arange(len(rows) * outputs).view(*left, outputs)
        if len(x.shape) and (outputs > 1 or (keep and len(dims) == 1)):
            places = places.movedim(-1, dims[0])
        elif keep:
            shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
            places = places.view(shape)
        else:
            places = places.squeeze(-1)
    parameters = (str(call.func), *parameters)
    return Groups([x], rows, places, lipschitz, function, SMOOTH, parameters)


def floored(gain: float, eps: float) -> float:
    """Return gain/√ε, rounded up."""
    return product_up(gain, 1 + gamma(8), 1 / math.sqrt(eps))


def _dims(dim: Any, x: Argument) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(x.shape)))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return [d % max(1, len(x.shape)) for d in dims]


def _each(value: Sequence[int] | int, axes: int) -> tuple[int, ...]:
    value = (value,) if isinstance(value, int) else tuple(value)
    return value * axes if len(value) == 1 else value


def _listed(value: Tensor | None) -> tuple[float, ...] | None:
    return None if value is None else tuple(value.reshape(-1).tolist())
