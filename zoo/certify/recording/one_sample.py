"""One sample of a recorded batch: the graph that a tape makes of it.

Every element of every value carries the set of samples that it depends on. Row i of the output may
hold the i-th sample only, and all samples must have equal graphs, number by number: this is shown
for the batch that was recorded, and not for batches of every size.
"""

# Shape letters: n size of a value.

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..graph import Affine, Elementwise, Graph, Input, Joint, Node, Stretch
from ..maps import MatrixMap
from ..operators import Blocks, Gather, Operator
from ..tape import Argument, Curve, Entry, Groups, Linear, Source, Tape
from .reach import MIXED, RefusedError, Whole, needed_values, reach_of, stops, union
from .record import Mark

__all__ = ["one_sample", "same"]


def one_sample(
    tape: Tape, output: Argument, input_shape: Sequence[int], marks: Sequence[Mark] = ()
) -> Graph:
    """Return the graph of each sample of a tape, which is the same for all.

    Args:
        tape: Of a batch.
        output: What the network returned, (B, …).
        input_shape: Of one sample.
        marks: Layers with a constant by construction, and what they read and returned.

    Raises:
        RefusedError: naming the operations without a rule, or where samples come together.
    """
    needed = needed_values(tape, output.value)
    found = stops(tape, needed)
    if found:
        raise RefusedError(*found)
    whole = reach_of(tape, needed)
    last, shape = whole[output.value], output.shape[1:]
    for sample in range(tape.samples):
        bits = last.reach[output.places[sample].reshape(-1)]
        if bool((bits & ~(1 << sample)).any()):
            raise RefusedError(last.mixed or f"the model: {MIXED}")
    graphs = [
        _graph(tape, needed, whole, output, sample, tuple(input_shape), tuple(shape), marks)
        for sample in range(tape.samples)
    ]
    for other in graphs[1:]:
        if not same(graphs[0], other):
            raise RefusedError("the model: treats the samples of a batch differently")
    return graphs[0]


def same(first: Graph, second: Graph) -> bool:
    """Whether two graphs compute the same, number by number."""
    return (
        len(first.nodes) == len(second.nodes)
        and (first.output, first.output_shape) == (second.output, second.output_shape)
        and all(_same(a, b) for a, b in zip(first.nodes, second.nodes, strict=True))
    )


def _same(a: Node, b: Node) -> bool:
    if (type(a), a.size, a.sources, a.name) != (type(b), b.size, b.sources, b.name):
        return False
    if isinstance(a, Affine) and isinstance(b, Affine):
        pairs = zip(a.terms, b.terms, strict=True)
        return _equal(a.constant, b.constant) and all(x[1].same(y[1]) for x, y in pairs)
    if isinstance(a, Elementwise) and isinstance(b, Elementwise):
        return a.parameters == b.parameters and _equal(a.low, b.low) and _equal(a.high, b.high)
    if isinstance(a, Joint) and isinstance(b, Joint):
        return (a.groups, a.lipschitz, a.parameters) == (b.groups, b.lipschitz, b.parameters)
    return True


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _graph(
    tape: Tape,
    needed: Sequence[int],
    whole: dict[int, Whole],
    output: Argument,
    sample: int,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    marks: Sequence[Mark],
) -> Graph:
    """Build the graph of one sample."""
    nodes: list[Node] = []
    at: dict[int, int] = {}
    kept = {v: (whole[v].reach == 1 << sample).nonzero().squeeze(1) for v in needed}
    for number in needed:
        entry, keep = tape.entries[number], kept[number]
        own: dict[str, Any] = {"number": len(nodes), "size": len(keep)}
        if isinstance(entry, Source):
            if entry.numbers is None:
                at[number] = len(nodes)
                nodes.append(Input(**own))
            continue
        if not len(keep):
            continue
        own |= {"name": entry.name, "place": entry.place}
        piece = entry.piece
        if isinstance(piece, Linear):
            terms = []
            for argument, operator in piece.parts:
                source = argument.value
                if source in at and len(kept[source]):
                    size = len(whole[source].reach)
                    term = _restricted(operator, kept[source], size, keep)
                    if term is not None:
                        terms.append((at[source], term))
            constant = _constant(piece, whole, keep)
            if len(terms) == 1 and constant is None and isinstance(terms[0][1], Gather):
                only = terms[0][1]
                if only.identity and only.scale is None:
                    at[number] = terms[0][0]
                    continue
            nodes.append(Affine(terms=tuple(terms), constant=constant, **own))
        elif isinstance(piece, Curve):
            source = at[piece.argument.value]
            operands = {n: v[keep] for n, v in piece.operands.items()}
            low, high = piece.low, piece.high
            assert isinstance(low, Tensor) and isinstance(high, Tensor)
            parameters = (*piece.parameters, *(tuple(v.tolist()) for v in operands.values()))
            nodes.append(
                Elementwise(
                    source=source, low=low[keep], high=high[keep],
                    function=_with(piece.function, operands),
                    kind=_kind(entry), rounding=piece.rounding, step=piece.step,
                    parameters=parameters, **own,
                )
            )  # fmt: skip
        elif isinstance(piece, Groups):
            number_read = piece.arguments[0].value
            inputs = piece.inputs[(union(whole[number_read].reach[piece.inputs]) == 1 << sample)]
            if inputs.numel() != len(kept[number_read]):
                read = whole[number_read], inputs.reshape(-1), kept[number_read]
                nodes.append(_filled(len(nodes), at[number_read], *read))
                at_read = len(nodes) - 1
                own["number"] = len(nodes)
            else:
                at_read = at[number_read]
            nodes.append(
                Joint(
                    source=at_read, groups=len(inputs), lipschitz=piece.lipschitz,
                    function=piece.function, kind=_kind(entry), rounding=piece.rounding,
                    parameters=piece.parameters, **own,
                )
            )  # fmt: skip
        at[number] = len(nodes) - 1
    places = output.places[sample].reshape(-1)
    if output.value in at and torch.equal(places, kept[output.value]):
        last = at[output.value]
    else:
        position = _position(kept[output.value], len(whole[output.value].reach))
        index = position[places]
        fixed = whole[output.value].fixed
        constant = None if fixed is None else fixed[places]
        terms = ()
        if output.value in at and bool((index >= 0).any()):
            terms = ((at[output.value], Gather(index, None, len(kept[output.value]))),)
        last = len(nodes)
        nodes.append(Affine(number=last, size=len(places), terms=terms, constant=constant))
    stretches = []
    for mark in marks:
        ends = [
            at[end.value]
            for end in (mark.read, mark.returned)
            if end.value in at
            and len(end.places) > sample
            and torch.equal(end.places[sample].reshape(-1), kept[end.value])
        ]
        if len(ends) == 2:
            stretches.append(Stretch(mark.name, mark.layer, *ends))
    return Graph(tuple(nodes), last, input_shape, output_shape, tuple(stretches))


def _with(
    function: Callable[[Tensor, Mapping[str, Tensor]], Tensor], operands: Mapping[str, Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return a function of elements with its fixed numbers."""
    return lambda u: function(u, operands)


def _kind(entry: Entry) -> str:
    """Return an operation without its overload, the functional one of an operation in place."""
    return entry.name.rpartition(".")[0]


def _filled(number: int, source: int, whole: Whole, index: Tensor, keep: Tensor) -> Affine:
    """Return what groups read where some of it is fixed."""
    position = _position(keep, len(whole.reach))
    constant = None if whole.fixed is None else whole.fixed[index]
    terms = ((source, Gather(position[index], None, len(keep))),)
    return Affine(number=number, size=len(index), terms=terms, constant=constant)


def _constant(piece: Linear, whole: dict[int, Whole], keep: Tensor) -> Tensor | None:
    """Return what is added to the kept elements."""
    total = None if piece.constant is None else piece.constant[keep]
    for argument, operator in piece.parts:
        fixed = whole[argument.value].fixed
        if fixed is not None and bool(fixed.any()):
            part = operator.apply(fixed[:, None])[:, 0][keep]
            total = part if total is None else total + part
    return total if total is not None and bool(total.any()) else None


def _position(keep: Tensor, size: int) -> Tensor:
    """Return where each element of a value is among the kept ones, −1 where it is not."""
    found = torch.full((size + 1,), -1)
    found[keep] = torch.arange(len(keep))
    return found


def _restricted(operator: Operator, keep_in: Tensor, size: int, keep: Tensor) -> Operator | None:
    """Return an operator between the kept elements, or None where it is zero."""
    position = _position(keep_in, size)
    if isinstance(operator, Gather):
        index = position[operator.index[keep]]
        if not bool((index >= 0).any()):
            return None
        scale = None if operator.scale is None else operator.scale[keep]
        return Gather(index, scale, len(keep_in), operator.rounded)
    assert isinstance(operator, Blocks)
    out = _position(keep, operator.rows)[operator.outputs]
    inputs = position[operator.inputs]
    used = (out >= 0).any(1) & (inputs >= 0).any(1)
    if not bool(used.any()):
        return None
    base = operator.base
    if isinstance(base, MatrixMap) and base.weight.dim() == 3:
        base = MatrixMap(base.weight[used], base.error)
    return Blocks(base, inputs[used], out[used], len(keep_in), len(keep))
