"""The tape of a recorded forward: every value of the whole batch, and what it was made from.

A value is a flat vector of all numbers of one storage at one time. Operators of a tape act on whole
batches; `graph_of` takes one sample out of them (`one_sample`).
"""

# Shape letters: n size of a value, T groups, I and O inputs and outputs of a group.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .operators import Blocks, Gather, Operator

__all__ = [
    "Argument",
    "Curve",
    "Entry",
    "Groups",
    "Linear",
    "Piece",
    "Source",
    "Spectrum",
    "Stop",
    "Tape",
    "composed",
]


@dataclass(frozen=True)
class Argument:
    """A recorded tensor that an operation reads.

    Attributes:
        value: The number of the value on the tape.
        places: Where its elements stand in the value, of the tensor's shape.
        dtype: Of the tensor.
        whole: Whether the tensor is all of the value, in order.
    """

    value: int
    places: Tensor
    dtype: torch.dtype
    whole: bool = False

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.places.shape


@dataclass(frozen=True)
class Linear:
    """An affine result: operators on the flattened arguments, and what is added.

    Attributes:
        parts: Arguments with operators from their elements to those of the result.
        shape: Of the result.
        constant: Of the result's shape, or None for zeros.
    """

    parts: Sequence[tuple[Argument, Operator]]
    shape: Sequence[int]
    constant: Tensor | None = None


@dataclass(frozen=True)
class Curve:
    """A function of each element of one argument, with its least and greatest slopes.

    Attributes:
        argument: What it reads.
        low: Least slope, a number or one for each element.
        high: Greatest slope.
        function: (elements (…, n), operands (n,) by name) -> (…, n).
        operands: Fixed numbers for each element, of the argument's shape.
        rounding: Of the function, as a share of its input and output.
        parameters: The operation and its options, which tell two functions apart.
        step: How far the operation may be from the function in each element.
    """

    argument: Argument
    low: float | Tensor
    high: float | Tensor
    function: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    operands: Mapping[str, Tensor] = field(default_factory=dict)
    rounding: float = 0.0
    parameters: tuple[object, ...] = ()
    step: float = 0.0


@dataclass(frozen=True)
class Groups:
    """One map (…, T, I) -> (…, T, O) of groups of elements of some arguments.

    Attributes:
        arguments: Counted through one after another, flattened.
        inputs: Elements that each group reads (T, I).
        places: Element of (T, O) that each element of the result is, of the result's shape.
    """

    arguments: Sequence[Argument]
    inputs: Tensor
    places: Tensor
    lipschitz: float
    function: Callable[[Tensor], Tensor]
    rounding: float = 0.0
    parameters: tuple[object, ...] = ()


@dataclass(frozen=True)
class Stop:
    """No bound, and why."""

    reason: str


@dataclass(frozen=True)
class Spectrum(Stop):
    """The Fourier transform of images, which has a bound only as a part of a convolution.

    Attributes:
        argument: The images (B, C, H, W).
    """

    argument: Argument


Piece = Linear | Curve | Groups | Stop


@dataclass(frozen=True)
class Source:
    """A value that is given: the samples, or numbers that no sample reaches.

    Attributes:
        size: n.
        numbers: (n,) in float64, or None for the samples.
    """

    size: int
    numbers: Tensor | None = None


@dataclass(frozen=True)
class Entry:
    """One operation on the tape.

    Attributes:
        piece: What it does; the arguments are whole values and the operators flat.
        size: Of the result.
        name: The operation.
        place: The module that ran it.
        reads: Values that it reads.
    """

    piece: Piece
    size: int
    name: str
    place: str
    reads: tuple[int, ...] = ()


@dataclass
class Tape:
    """Values in the order in which they came to be."""

    samples: int
    entries: list[Source | Entry] = field(default_factory=list)

    def add(self, entry: Source | Entry) -> int:
        """Append an entry and return the number of its value."""
        self.entries.append(entry)
        return len(self.entries) - 1

    def size(self, value: int) -> int:
        """Return how many numbers a value has."""
        return self.entries[value].size

    def put(self, piece: Piece, size: int, name: str, place: str, reads: Sequence[int] = ()) -> int:
        """Append an operation whose arguments are tensors anywhere in their values."""
        if isinstance(piece, Linear):
            parts = [
                (_whole(argument, self.size(argument.value)),
                 composed(operator, argument, self.size(argument.value)))
                for argument, operator in piece.parts
            ]  # fmt: skip
            same = len(parts) == 1 and piece.constant is None and isinstance(parts[0][1], Gather)
            if same:
                only = parts[0][1]
                assert isinstance(only, Gather)
                if only.identity and only.scale is None:
                    return parts[0][0].value
            constant = None if piece.constant is None else piece.constant.reshape(-1)
            piece = Linear(parts, (size,), constant)
            reads = [argument.value for argument, _ in parts]
        elif isinstance(piece, Curve):
            reads = [self.gather([piece.argument], piece.argument.places.reshape(-1), name, place)]
            low, high = (
                torch.as_tensor(v, dtype=torch.float64).expand(piece.argument.shape).reshape(-1)
                for v in (piece.low, piece.high)
            )
            whole = _all(reads[0], size)
            operands = {name: v.reshape(-1) for name, v in piece.operands.items()}
            piece = Curve(
                whole, low, high, piece.function, operands, piece.rounding,
                piece.parameters, piece.step,
            )  # fmt: skip
        elif isinstance(piece, Groups):
            reads = [self._collect(piece, name, place)]
            groups = len(piece.inputs)
            outputs = piece.places.numel() if not groups else int(piece.places.max()) + 1
            own = self.add(
                Entry(
                    Groups([_all(reads[0], piece.inputs.numel())],
                           torch.arange(piece.inputs.numel()).view_as(piece.inputs),
                           torch.arange(outputs), piece.lipschitz, piece.function, piece.rounding,
                           piece.parameters),
                    outputs, name, place, tuple(reads),
                )
            )  # fmt: skip
            return self.gather([_all(own, outputs)], piece.places.reshape(-1), name, place)
        return self.add(Entry(piece, size, name, place, tuple(reads)))

    def gather(self, arguments: Sequence[Argument], index: Tensor, name: str, place: str) -> int:
        """Append a value made of elements of one value, unless they are all of it in order."""
        (argument,) = arguments
        operator = Gather(index, None, self.size(argument.value))
        if operator.identity:
            return argument.value
        whole = _all(argument.value, self.size(argument.value))
        piece = Linear([(whole, operator)], (len(index),))
        return self.add(Entry(piece, len(index), name, place, (argument.value,)))

    def _collect(self, piece: Groups, name: str, place: str) -> int:
        """Append what groups read, group after group."""
        index = piece.inputs.reshape(-1)
        if len(piece.arguments) == 1:
            flat = piece.arguments[0].places.reshape(-1)
            return self.gather(piece.arguments, flat[index], name, place)
        parts, start = [], 0
        for argument in piece.arguments:
            count = argument.places.numel()
            own = (index >= start) & (index < start + count)
            local = torch.where(own, index - start, -1)
            parts.append((argument, Gather(local, None, count)))
            start += count
        return self.put(Linear(parts, (len(index),)), len(index), name, place)


def composed(operator: Operator, argument: Argument, columns: int) -> Operator:
    """Return an operator on a tensor's elements as one on all of the tensor's value."""
    if argument.whole:
        return operator
    flat = argument.places.reshape(-1)
    if isinstance(operator, Gather):
        index = _looked_up(flat, operator.index)
        return Gather(index, operator.scale, columns, operator.rounded)
    assert isinstance(operator, Blocks)
    inputs = _looked_up(flat, operator.inputs)
    return Blocks(operator.base, inputs, operator.outputs, columns, operator.rows)


def _looked_up(places: Tensor, index: Tensor) -> Tensor:
    if not places.numel():
        return torch.full_like(index, -1)
    return torch.where(index >= 0, places[index.clamp_min(0)], -1)


def _whole(argument: Argument, size: int) -> Argument:
    return _all(argument.value, size)


def _all(value: int, size: int) -> Argument:
    return Argument(value, torch.arange(size), torch.float64)
