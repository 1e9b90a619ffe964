"""Operations that move elements about: the rule is the operation itself, run on their places."""

import torch

from ..operators import Gather
from ..tape import Argument, Linear, Piece
from .call import Call, broadcast, operation, stop

# Operands that hold elements; the others are places, masks and sizes.
MOVES = {
    "aten.clone": ("self",),
    "aten.cat": ("tensors",),
    "aten.stack": ("tensors",),
    "aten.reflection_pad1d": ("self",),
    "aten.reflection_pad2d": ("self",),
    "aten.reflection_pad3d": ("self",),
    "aten.replication_pad1d": ("self",),
    "aten.replication_pad2d": ("self",),
    "aten.replication_pad3d": ("self",),
    "aten.roll": ("self",),
    "aten.flip": ("self",),
    "aten.repeat": ("self",),
    "aten.index_select": ("self",),
    "aten.index": ("self",),
    "aten.gather": ("self",),
    "aten.take": ("self",),
    "aten.select_scatter": ("self", "src"),
    "aten.slice_scatter": ("self", "src"),
    "aten.scatter.src": ("self", "src"),
    "aten.tril": ("self",),
    "aten.triu": ("self",),
    "aten.diag_embed": ("self",),
    "aten.upsample_nearest1d": ("self", "input"),
    "aten.upsample_nearest2d": ("self", "input"),
    "aten.upsample_nearest3d": ("self", "input"),
    "aten._upsample_nearest_exact1d": ("self", "input"),
    "aten._upsample_nearest_exact2d": ("self", "input"),
    "aten.pixel_shuffle": ("self",),
    "aten.pixel_unshuffle": ("self",),
    "aten.channel_shuffle": ("self",),
    "aten.native_channel_shuffle": ("self",),
    "aten.im2col": ("self",),
    "aten._unsafe_view": ("self",),
    "aten._reshape_copy": ("self",),
    "aten.view_copy": ("self",),
    "aten.permute_copy": ("self",),
    "aten.expand_copy": ("self",),
    "aten.unfold_copy": ("self",),
    "aten.repeat_interleave.self_int": ("self",),
    "aten.where.self": ("self", "other"),
    "aten.copy": ("src",),
}


@operation(*MOVES)
def moves(call: Call) -> Piece:
    """Read where each element comes from off the operation."""
    name = str(call.func)
    names = MOVES.get(name) or MOVES[name.rpartition(".")[0]]
    if name.startswith("aten.copy."):
        names = ("self", "src")
    if not call.are(*names):
        return stop("moves elements to places that depend on the samples")
    if name.startswith("aten.copy."):
        source, shape = call["src"], call["self"].shape
        if not isinstance(source, Argument):
            return Linear([], shape, source.double().expand(shape))
        return Linear([broadcast(source, shape)], shape)
    return call.moved()


@operation("aten._to_copy")
def converted(call: Call) -> Piece:
    """Keep the numbers: a certificate speaks of real numbers, whatever their type."""
    dtype = call["dtype"]
    if dtype is not None and not dtype.is_floating_point:
        return stop(f"rounds to {dtype}, a step function of its input")
    count = call["self"].places.numel()
    operator = Gather(torch.arange(count), None, count)
    return Linear([(call["self"], operator)], call["self"].shape)


@operation("aten.masked_fill.Tensor")
def filled_by_tensor(call: Call) -> Piece:
    """Write a fixed number between the elements."""
    return call.moved() if call.are("self") else stop("fills with a value of the samples")


@operation("aten.constant_pad_nd", "aten.masked_fill.Scalar", "aten.fill.Scalar")
def filled(call: Call) -> Piece:
    """Write a number between the elements."""
    return call.moved(value=0.0) if call.are("self") else stop("has a mask made from the samples")


@operation("aten.zero", "aten.fill.Tensor")
def overwritten(call: Call) -> Piece:
    """Forget what was there."""
    return call.moved() if call.are("self") else stop("fills with a value of the samples")


@operation("aten.index_put")
def put(call: Call) -> Piece:
    """Write elements to fixed places."""
    if not call.are("self", "values") or call["accumulate"]:
        return stop("writes to places that depend on the samples, or adds to them")
    return call.moved()
