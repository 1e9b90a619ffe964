"""Products and quotients of a value and a function of the same value: x σ(x), x / (1 + |x|)."""

import torch
from torch.nn import functional as F

from ..operators import Gather
from ..tape import Argument, Curve, Entry, Linear, Tape
from .call import Call

__all__ = ["known_pair"]

SMOOTH = 2.0**-46


def known_pair(call: Call) -> Curve | None:
    """Return the one function that two factors of the same value are, or None."""
    first, other = call["self"], call["other"]
    if not isinstance(first, Argument) or not isinstance(other, Argument):
        return None
    if str(call.func).startswith("aten.div"):
        return _softsign(call.tape, first, other)
    for x, y in ((first, other), (other, first)):
        if _function_of(call.tape, y, "aten.sigmoid", x):
            return Curve(x, -0.0999, 1.0999, lambda u, operands: F.silu(u), {}, SMOOTH, ("silu",))
    return None


def _softsign(tape: Tape, x: Argument, divisor: Argument) -> Curve | None:
    """Slopes of x / (1 + |x|) are 1/(1 + |x|)²."""
    piece = _piece(tape, divisor.value)
    if not isinstance(piece, Linear) or len(piece.parts) != 1 or piece.constant is None:
        return None
    argument, operator = piece.parts[0]
    one = bool((piece.constant == 1).all())
    if not (one and isinstance(operator, Gather) and operator.identity and operator.scale is None):
        return None
    absolute = Argument(argument.value, divisor.places, divisor.dtype)
    if not _function_of(tape, absolute, "aten.abs", x):
        return None
    return Curve(x, 0.0, 1.0, lambda u, operands: F.softsign(u), {}, SMOOTH, ("softsign",))


def _function_of(tape: Tape, y: Argument, name: str, x: Argument) -> bool:
    """Whether y is a function of each element of x."""
    piece = _piece(tape, y.value)
    if not isinstance(piece, Curve) or not str(piece.parameters[0]).startswith(f"{name}."):
        return False
    if y.shape != x.shape:
        return False
    source, index = piece.argument.value, y.places
    # The function may read a view, which was gathered first.
    before = _piece(tape, source)
    if source != x.value and isinstance(before, Linear) and len(before.parts) == 1:
        argument, operator = before.parts[0]
        if isinstance(operator, Gather) and operator.scale is None and before.constant is None:
            source, index = argument.value, operator.index[index]
    return source == x.value and torch.equal(index, x.places)


def _piece(tape: Tape, value: int) -> object:
    entry = tape.entries[value]
    return entry.piece if isinstance(entry, Entry) else None
