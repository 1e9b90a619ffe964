"""A model as a graph of torch's own operators: `torch.export`."""

import types
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .deployed import deployed

__all__ = ["BATCH", "LONGEST", "REFUSALS", "Axes", "export_program", "stopped_by", "traced"]

Axes = Mapping[int, str]
"""Names of the axes whose length may differ from the sample's."""

BATCH: Axes = {0: "batch"}

LONGEST = 300  # letters of a message that are shown

REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)
"""What torch raises of a graph that it cannot make: its own errors are all of these."""


def export_program(model: nn.Module, sample: Tensor, *, dynamic: Axes = BATCH) -> ExportedProgram:
    """Graph of a model in evaluation, which runs where this library is not installed.

    The model is `deployed` first. Nothing of the sample is kept but its shape and dtype, and no
    path of this machine.

    Args:
        model: Of the zoo, or any other that takes one tensor; left as it is.
        sample: Inputs as the model reads them.
        dynamic: Which axes may have another length later, and their names.

    Raises:
        ValueError: a graph that torch cannot make; the message names the module or the operator.
    """
    twin = deployed(model, sample)
    return traced(twin, (like(sample, dynamic),), [dynamic])


def like(sample: Tensor, dynamic: Axes) -> Tensor:
    """Zeros of a sample's shape, with two entries at least along the axes that may change.

    One entry would be taken for a constant.
    """
    shape = [max(2, n) if axis in dynamic else n for axis, n in enumerate(sample.shape)]
    return sample.new_zeros(shape)


def traced(
    module: nn.Module, inputs: tuple[Tensor, ...], dynamic: Sequence[Axes]
) -> ExportedProgram:
    """Trace a module as it is.

    Args:
        module: In evaluation mode.
        inputs: Two entries at least along every axis that may change.
        dynamic: Of each input, the axes that may change.

    Raises:
        ValueError: as `export_program`.
    """
    names = {name for axes in dynamic for name in axes.values()}
    # A cache is empty before the first token; all else has one entry at least.
    sizes = {name: torch.export.Dim(name, min=0 if name == "past" else 1) for name in names}
    shapes = tuple({axis: sizes[name] for axis, name in axes.items()} for axes in dynamic)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of its own parts
            program = torch.export.export(
                module, inputs, dynamic_shapes=_as_arguments(module, shapes), strict=False
            )
    except REFUSALS as error:
        raise ValueError(f"torch.export stops {stopped_by(module, error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _as_arguments(module: nn.Module, shapes: tuple[Any, ...]) -> Any:
    """Shapes as `forward` takes its inputs, which may end in `*rest`."""
    code: types.CodeType = module.forward.__code__
    if not code.co_flags & 0x04:  # CO_VARARGS
        return shapes
    own = code.co_argcount - 1
    return (*shapes[:own], shapes[own:])


def stopped_by(module: nn.Module, error: BaseException) -> str:
    """Where a trace ended and why, as the end of a sentence.

    Args:
        module: What was traced.
        error: What was raised.
    """
    names = {id(part): name for name, part in module.named_modules()}
    place, trace = "", error.__traceback__
    while trace is not None:
        here = trace.tb_frame.f_locals.get("self")
        if names.get(id(here)):
            place = f"at {names[id(here)]}, a {type(here).__name__}: "
        trace = trace.tb_next
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{place}{said[:LONGEST]}"
