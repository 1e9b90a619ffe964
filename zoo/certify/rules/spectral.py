"""Circular convolutions by Fourier transforms: a product of transfer matrices between two of them.

A complex value has no bound of its own. Where the inverse transform reads what one product made of
the transform of real images, each frequency from that frequency of the same sample, the whole is a
circular convolution, which is real and linear.
"""

# Shape letters: B batch, C channels, H and W of the images, O and I of the matrices, T groups.

import math

import torch
from torch import Tensor

from ..maps import MatrixMap, SpectralMap
from ..operators import Blocks, Gather
from ..tape import Argument, Entry, Linear, Piece, Source, Spectrum, Tape
from .call import Call, operation, stop

ALONE = "is a Fourier transform that is no part of a circular convolution with fixed weights"


@operation("aten._fft_r2c")
def forward(call: Call) -> Piece:
    """Remember the images."""
    x = call["self"]
    last = [d % len(x.shape) for d in call["dim"]] == [2, 3] and len(x.shape) == 4
    if not last or call["normalization"] != 0 or not call["onesided"]:
        return stop(ALONE)
    return Spectrum(ALONE, x)


@operation("aten._fft_c2r")
def backward(call: Call) -> Piece:
    """Read the convolution off what lies between the transforms."""
    y = call["self"]
    last = len(y.shape) == 4 and [d % 4 for d in call["dim"]] == [2, 3]
    if not last or call["normalization"] != 2:
        return stop(ALONE)
    value, places = _traced(call.tape, y.value, y.places)
    entry = call.tape.entries[value]
    piece = getattr(entry, "piece", None)
    if not isinstance(piece, Linear) or len(piece.parts) != 1 or piece.constant is not None:
        return stop(ALONE)
    argument, operator = piece.parts[0]
    if not isinstance(operator, Blocks) or not isinstance(operator.base, MatrixMap):
        return stop(ALONE)
    value, inputs = _traced(call.tape, argument.value, operator.inputs)
    first = getattr(call.tape.entries[value], "piece", None)
    if not isinstance(first, Spectrum):
        return stop(ALONE)
    weight = _transfer(first.argument, inputs, operator, places)
    size = first.argument.shape[2:]
    if weight is None or call["last_dim_size"] != size[1]:
        return stop(ALONE)
    base = SpectralMap(weight, (size[0], size[1]))
    x, batch = first.argument, y.shape[0]
    shape = (batch, weight.shape[-2], *size)
    outputs = torch.arange(math.prod(shape)).view(batch, -1)
    reads = torch.arange(x.places.numel()).view(batch, -1)
    return Linear([(x, Blocks(base, reads, outputs, reads.numel(), outputs.numel()))], shape)


def _traced(tape: Tape, value: int, places: Tensor) -> tuple[int, Tensor]:
    """Follow values that only moved back to where they were made."""
    while True:
        entry = tape.entries[value]
        piece = entry.piece if isinstance(entry, Entry) else None
        if isinstance(entry, Source) or not isinstance(piece, Linear) or len(piece.parts) != 1:
            return value, places
        argument, operator = piece.parts[0]
        if not isinstance(operator, Gather) or operator.scale is not None or not operator.full:
            return value, places
        value, places = argument.value, operator.index[places]


def _transfer(x: Argument, inputs: Tensor, operator: Blocks, places: Tensor) -> Tensor | None:
    """Return the transfer matrices (H, W', O, I), where frequencies and samples stay apart."""
    batch, outputs, rows, columns = places.shape
    channels = x.shape[1]
    if (batch, rows, columns) != (x.shape[0], x.shape[2], x.shape[3] // 2 + 1):
        return None
    groups, width = operator.outputs.shape
    if width != outputs or inputs.shape[1] != channels:
        return None
    group = torch.full((operator.rows,), -1)
    group[operator.outputs] = torch.arange(groups)[:, None].expand(-1, width)
    channel = torch.full((operator.rows,), -1)
    channel[operator.outputs] = torch.arange(width).expand(groups, -1)
    of = group[places]  # (B, O, H, W')
    right = channel[places] == torch.arange(outputs).view(1, -1, 1, 1)
    if not bool((of == of[:, :1]).all()) or not bool(right.all()) or bool((of < 0).any()):
        return None
    of = of[:, 0]
    wanted = torch.arange(batch * channels * rows * columns).view(batch, channels, rows, columns)
    if not torch.equal(inputs[of], wanted.permute(0, 2, 3, 1)):
        return None
    weight = operator.base.weight
    each = weight[of] if weight.dim() == 3 else weight.expand(batch, rows, columns, -1, -1)
    return each[0] if bool((each == each[:1]).all()) else None
