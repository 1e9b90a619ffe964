"""Which samples of a recorded batch each element of each value depends on."""

# Shape letters: n size of a value.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..maps import MatrixMap
from ..operators import Blocks, Gather, Operator
from ..tape import Curve, Entry, Groups, Linear, Source, Stop, Tape

__all__ = ["MIXED", "RefusedError", "Whole", "needed_values", "reach_of", "stops", "union"]

MIXED = (
    "mixes the samples of a batch, so that one prediction depends on the others; take means and "
    "norms over the axes of one sample only"
)


class RefusedError(Exception):
    """A network that no bound is known for.

    Attributes:
        reasons: Why, each with the path of the module and the way out.
    """

    def __init__(self, *reasons: str) -> None:
        """Keep the reasons, each once."""
        self.reasons = tuple(dict.fromkeys(reasons))
        super().__init__("\n".join(self.reasons))


@dataclass
class Whole:
    """What is known of a value of the whole batch.

    Attributes:
        reach: The samples that each element depends on, a bit for each (n,).
        fixed: Numbers that no sample reaches, zeros elsewhere (n,); None where all are zero.
        mixed: The first operation behind it that mixed samples.
    """

    reach: Tensor
    fixed: Tensor | None
    mixed: str | None = None


def needed_values(tape: Tape, output: int) -> list[int]:
    """Numbers of the values that the output is made of, in order; the samples always."""
    found, waiting = {0}, [output]
    while waiting:
        value = waiting.pop()
        if value in found and value:
            continue
        found.add(value)
        entry = tape.entries[value]
        waiting += [v for v in getattr(entry, "reads", ()) if v not in found]
    return sorted(found)


def stops(tape: Tape, needed: Sequence[int]) -> list[str]:
    """Reasons of the operations without a bound whose operands have one."""
    reasons, stopped = [], set()
    for number in needed:
        entry = tape.entries[number]
        if isinstance(entry, Source):
            continue
        known = stopped.isdisjoint(entry.reads)
        if isinstance(entry.piece, Stop) and known:
            reasons.append(entry.piece.reason)
        if isinstance(entry.piece, Stop) or not known:
            stopped.add(number)
    return reasons


def reach_of(tape: Tape, needed: Sequence[int]) -> dict[int, Whole]:
    """Return what is known of each needed value of the whole batch."""
    found: dict[int, Whole] = {}
    for number in needed:
        entry = tape.entries[number]
        if isinstance(entry, Source):
            if entry.numbers is None:
                each = entry.size // tape.samples
                reach = (1 << torch.arange(tape.samples)).repeat_interleave(each)
                found[number] = Whole(reach, None)
            else:
                found[number] = Whole(torch.zeros(entry.size).long(), entry.numbers)
            continue
        whole = _of(entry, found)
        alone = (whole.reach & (whole.reach - 1)) == 0
        if whole.mixed is None and not bool(alone.all()):
            whole.mixed = f"{entry.place or 'the model'}: {entry.name} {MIXED}"
        if whole.fixed is not None:
            unreached = whole.reach == 0
            whole.fixed = whole.fixed.where(unreached, 0.0) if bool(unreached.any()) else None
        found[number] = whole
    return found


def _of(entry: Entry, found: dict[int, Whole]) -> Whole:
    """Return reach and fixed numbers of one operation's result."""
    piece = entry.piece
    mixed = next((found[v].mixed for v in entry.reads if found[v].mixed), None)
    if isinstance(piece, Linear):
        reach = torch.zeros(entry.size).long()
        fixed = None if piece.constant is None else piece.constant
        for argument, operator in piece.parts:
            source = found[argument.value]
            reach |= _through(operator, source.reach)
            if source.fixed is not None:
                part = operator.apply(source.fixed[:, None])[:, 0]
                fixed = part if fixed is None else fixed + part
        return Whole(reach, fixed, mixed)
    if isinstance(piece, Curve):
        source = found[piece.argument.value]
        fixed = None
        if bool((source.reach == 0).any()):
            given = torch.zeros(entry.size).double() if source.fixed is None else source.fixed
            fixed = piece.function(given, piece.operands)
        return Whole(source.reach, fixed, mixed)
    if isinstance(piece, Groups):
        source = found[piece.arguments[0].value]
        bits = union(source.reach[piece.inputs])
        each = entry.size // max(1, len(piece.inputs))
        fixed = None
        if bool((bits == 0).any()):
            given = torch.zeros(len(source.reach)).double()
            given = given if source.fixed is None else source.fixed
            fixed = piece.function(given[piece.inputs]).reshape(-1)
        return Whole(bits.repeat_interleave(each), fixed, mixed)
    raise AssertionError("a value without a bound has been refused before")


def union(bits: Tensor) -> Tensor:
    """Union of sets over the last axis."""
    total = torch.zeros(bits.shape[:-1]).long()
    for sample in range(63):
        bit = 1 << sample
        if not bool((bits >= bit).any()):
            break
        total |= ((bits & bit) != 0).any(-1) * bit
    return total


def _through(operator: Operator, reach: Tensor) -> Tensor:
    """Return the samples that each output of an operator depends on."""
    padded = torch.cat([reach, torch.zeros(1).long()])
    if isinstance(operator, Gather):
        return padded[operator.index]
    assert isinstance(operator, Blocks)
    bits = padded[operator.inputs]
    whole = union(bits)
    each = whole[:, None].expand(-1, operator.outputs.shape[1])
    if isinstance(operator.base, MatrixMap) and bool(((whole & (whole - 1)) != 0).any()):
        used = (operator.base.weight != 0).double()
        used = used if used.dim() == 3 else used[None]
        each = torch.zeros_like(each)
        for sample in range(int(whole.max()).bit_length()):
            part = ((bits >> sample) & 1).double().unsqueeze(-1)
            each = each | ((used @ part).squeeze(-1) > 0) * (1 << sample)
    total = torch.zeros(operator.rows + 1).long()
    place = operator.outputs.where(operator.outputs >= 0, operator.rows)
    total[place.reshape(-1)] = each.reshape(-1)
    return total[:-1]
