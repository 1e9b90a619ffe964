"""What is known of operations of torch: a rule for each, by its name.

A rule reads a `Call` and says of its results what they are: affine in the operands (`Linear`), a
function of each element (`Curve`), a map of groups of elements (`Groups`), or nothing that a bound
is known for (`Stop`). An operation without a rule has no bound: a rule adds, nothing is assumed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten, tree_map

from ..operators import Gather
from ..tape import Argument, Linear, Piece, Stop, Tape

__all__ = ["Call", "Rule", "broadcast", "operation", "rule_of", "stop"]

Rule = Callable[["Call"], Piece | Sequence[Piece]]
Decorated = TypeVar("Decorated", bound=Rule)

OPERATIONS: dict[str, Rule] = {}


def operation(*names: str) -> Callable[[Decorated], Decorated]:
    """Decorate the rule of operations, named as `aten.add` or, one overload, `aten.add.Tensor`.

    An operation of a library of one's own is named as it is registered with `torch.library`.
    """

    def decorate(function: Decorated) -> Decorated:
        for name in names:
            OPERATIONS[name] = function
        return function

    return decorate


def rule_of(func: OpOverload) -> Rule | None:
    """Return the rule of an operation, or None."""
    overload = str(func)
    return OPERATIONS.get(overload) or OPERATIONS.get(overload.rpartition(".")[0])


@dataclass(frozen=True)
class Call:
    """One operation with its operands, by their names in its schema.

    Attributes:
        func: The operation.
        values: Recorded tensors as `Argument`, other tensors widened to float64 (indices and masks
            as they are), numbers and options, with defaults filled in.
        tape: What was recorded before.
    """

    func: OpOverload
    values: Mapping[str, Any]
    tape: Tape

    @classmethod
    def of(
        cls,
        func: OpOverload,
        args: Any,
        kwargs: Any,
        read: Callable[[Tensor], Argument | None],
        tape: Tape,
    ) -> "Call":
        """Bind operands to names."""

        def convert(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            found = read(value)
            return _wide(value) if found is None else found

        values = {}
        for place, argument in enumerate(func._schema.arguments):
            if place < len(args) and not argument.kwarg_only:
                given = args[place]
            else:
                given = kwargs.get(argument.name, argument.default_value)
            values[argument.name] = tree_map(convert, given)
        return cls(func, values, tape)

    def __getitem__(self, name: str) -> Any:
        """Return an operand."""
        return self.values[name]

    @property
    def recorded(self) -> list[Argument]:
        """All recorded operands, in order."""
        return [v for v in self._flat() if isinstance(v, Argument)]

    def are(self, *names: str) -> bool:
        """Whether all recorded operands are among those named."""
        inside = [v for n in names for v in _leaves(self.values.get(n))]
        return len(self.recorded) == sum(isinstance(v, Argument) for v in inside)

    def unusable(self) -> str | None:
        """Say what in the operands no rule can read, or None."""
        overwritten = ("self",) if str(self.func) in OVERWRITTEN else ()
        given = [v for n, v in self.values.items() if n not in overwritten]
        for value in (leaf for v in given for leaf in _leaves(v)):
            if isinstance(value, Argument) and not value.dtype.is_floating_point:
                if value.dtype.is_complex and str(self.func) in COMPLEX:
                    continue
                return "reads integers, decisions or complex numbers made from the samples"
            if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
                if not bool(value.isfinite().all()):
                    return (
                        "reads NaN or infinite numbers: a mask of −inf, or a value that left the "
                        "recording (numpy, data pointers, extensions)"
                    )
            elif isinstance(value, float) and not math.isfinite(value):
                return f"reads the number {value}"
        return None

    def run(self, recorded: Callable[[Argument], Tensor], /, **replaced: Any) -> Any:
        """Execute the operation in float64, with something in place of the recorded operands."""
        values = {n: v for n, v in (dict(self.values) | replaced).items()}
        values = {
            n: tree_map(lambda v: recorded(v) if isinstance(v, Argument) else v, v, is_leaf=_leaf)
            for n, v in values.items()
        }
        args, kwargs = [], {}
        for argument in self.func._schema.arguments:
            if argument.name in DTYPES:
                continue
            if argument.kwarg_only:
                kwargs[argument.name] = values[argument.name]
            else:
                args.append(values[argument.name])
        return self.func(*args, **kwargs)

    def constant(self) -> Tensor:
        """Return the result where all recorded operands are zero: what an affine map adds."""
        return self.run(lambda a: torch.zeros(a.shape, dtype=torch.float64))

    def moved(self, /, **numbers: Any) -> Linear:
        """Return the result of an operation that only moves elements.

        Args:
            numbers: Operands that are written between elements, each with its zero.
        """
        recorded = self.recorded
        starts, start = {}, 1
        for argument in recorded:
            starts[id(argument)] = start
            start += argument.places.numel()

        def ids(argument: Argument) -> Tensor:
            count, first = argument.places.numel(), starts[id(argument)]
            found = torch.arange(first, first + count, dtype=torch.float64)
            return found.view(argument.shape)

        zeroed = {
            n: tree_map(_zero, v, is_leaf=_leaf) for n, v in self.values.items() if n not in numbers
        }
        places = self.run(ids, **zeroed, **numbers).long()
        flat = places.reshape(-1)
        parts = []
        for argument in recorded:
            count, first = argument.places.numel(), starts[id(argument)]
            own = (flat >= first) & (flat < first + count)
            index = torch.where(own, flat - first, -1)
            parts.append((argument, Gather(index, None, count)))
        constant = None if bool((flat > 0).all()) else self.constant()
        return Linear(parts, places.shape, constant)

    def _flat(self) -> list[Any]:
        return [v for value in self.values.values() for v in _leaves(value)]


# What a convolution by Fourier transforms is made of; only the whole has a bound.
COMPLEX = {"aten.clone.default", "aten._unsafe_view.default", "aten.bmm.default",
           "aten._fft_c2r.default"}  # fmt: skip

# What a tensor held before does not matter here, and may be memory that nobody has written.
OVERWRITTEN = {"aten.copy.default", "aten.fill.Scalar", "aten.fill.Tensor", "aten.zero.default"}

DTYPES = {"dtype", "layout", "device", "pin_memory", "non_blocking", "memory_format", "copy"}


def broadcast(argument: Argument, shape: Sequence[int], scale: Tensor | None = None) -> Any:
    """Return a part of a `Linear`: an operand spread over a shape, times a number at each place."""
    count = argument.places.numel()
    index = torch.arange(count).view(argument.shape).expand(*shape).reshape(-1)
    flat = None if scale is None else scale.expand(*shape).reshape(-1)
    return argument, Gather(index, flat, count)


def _leaf(value: Any) -> bool:
    return isinstance(value, Argument)


def _leaves(value: Any) -> list[Any]:
    return tree_flatten(value, is_leaf=_leaf)[0]


def _wide(value: Tensor) -> Tensor:
    """Return the numbers of a tensor as they are now, floats in float64."""
    value = value.detach()
    if value.is_floating_point():
        return value.to(torch.float64, copy=True)
    return value.to(torch.complex128, copy=True) if value.is_complex() else value.clone()


def _zero(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.zeros_like(value)
    return value


def stop(reason: str) -> Stop:
    """Return that there is no bound."""
    return Stop(reason)
