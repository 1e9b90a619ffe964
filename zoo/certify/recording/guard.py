"""The graph of a model: its forward recorded, and compared with the forward itself.

A recording cannot see what reads no value of the recording: a counter, the size of the batch, the
class of a tensor, a gradient mode. So the model is recorded again with other batches, and the graph
must agree with the plain forward, run without and with gradients, on the samples given.
"""

# Shape letters: N samples.

import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ....layers.fast_path import kernels_taken
from ..graph import Graph
from .memory import RecordingError
from .one_sample import one_sample, same
from .plain import ForeignOperators, ForwardError, place_of, run_plainly, told
from .reach import RefusedError
from .record import Recorder

__all__ = ["check_equal", "graph_of"]

BATCHES = (3, 1)  # sizes that are recorded; all must give one graph
POINTS = 9  # that graphs of two batch sizes are compared on
# Of the logits' size: rounding of a forward of some hundred layers in each type.
AGREE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}


def graph_of(model: nn.Module, x: Tensor) -> Graph:
    """Return the graph that a model computes for one sample.

    The model is in evaluation mode and belongs to the caller, who gives a copy.

    Args:
        model: On the CPU.
        x: Samples as the model reads them (N, …), at least one, floating point.

    Raises:
        RefusedError: an operation without a rule, samples that reach one another, randomness, or a
            forward that does something else than was recorded.
        ForwardError: the forward raises without a recording too.
    """
    generators = torch.get_rng_state(), random.getstate()
    try:
        return _guarded(model, x)
    finally:
        torch.set_rng_state(generators[0])
        random.setstate(generators[1])


def _guarded(model: nn.Module, x: Tensor) -> Graph:
    versions = _versions(model)
    generators = torch.get_rng_state(), random.getstate()
    with kernels_taken() as families:
        plain = _forward(model, x, False)
    again = _with_gradients(model, x)
    if not _close(plain, _forward(model, x, False) if again is None else again):
        raise RefusedError(
            "the model: returns something else when it runs again, or runs with gradients; a "
            "certificate is for a function"
        )
    graphs = [_recorded(model, x, samples) for samples in BATCHES]
    with ForeignOperators() as foreign:
        _forward(model, x, False)
    if not torch.equal(generators[0], torch.get_rng_state()) or generators[1] != random.getstate():
        raise RefusedError("the model: draws random numbers in evaluation mode")
    if versions != _versions(model):
        raise RefusedError(
            "the model: changes its parameters or buffers in evaluation mode, so that it is not "
            "one function"
        )
    if not all(_equal(graphs[0], other) for other in graphs[1:]):
        raise RefusedError("the model: treats batches of different sizes differently")
    with torch.no_grad():
        check_equal(graphs[0], graphs[0](x), plain)
    kernels = {f"archzoo_{family}" for family in families} | foreign.names
    return replace(graphs[0], kernels=tuple(sorted(kernels)))


def _equal(one: Graph, other: Graph) -> bool:
    """Whether graphs of two batch sizes are one function.

    They are, number by number, unless torch lays out a batch of one sample in another order: then
    they must agree on points of several sizes.
    """
    if same(one, other):
        return True
    if one.output_shape != other.output_shape:
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(POINTS, *one.input_shape, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(-2, 2, POINTS, dtype=torch.float64).view(-1, *[1] * (x.dim() - 1))
    with torch.no_grad():
        first, second = one(x).flatten(1), other(x).flatten(1)
    size = first.abs().amax(1, keepdim=True)
    return bool(((first - second).abs() <= AGREE[torch.float64] * size).all())


def _forward(model: nn.Module, x: Tensor, grad: bool) -> Tensor:
    with torch.set_grad_enabled(grad):
        return _tensor(run_plainly(model, x.clone())).detach()


def _with_gradients(model: nn.Module, x: Tensor) -> Tensor | None:
    """Run a forward with gradients; None where it only runs without, as in inference mode."""
    try:
        return _forward(model, x, True)
    except ForwardError:
        return None


def _close(one: Tensor, two: Tensor) -> bool:
    """Whether two runs agree up to the rounding of two orders of summing."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    share = 256 * torch.finfo(one.dtype).eps if one.dtype.is_floating_point else 0.0
    one, two = one.double(), two.double()
    size = float(one.abs().max()) if one.numel() else 0.0
    return torch.equal(one, two) or bool(((one - two).abs() <= share * size).all())


def _tensor(found: Any) -> Tensor:
    if not isinstance(found, Tensor):
        raise RefusedError(
            f"the model: returns a {type(found).__name__}; wrap it in a module that returns the "
            f"logits"
        )
    return found


def _recorded(model: nn.Module, x: Tensor, samples: int) -> Graph:
    recorder = Recorder(samples)
    given = recorder.input((samples, *x.shape[1:]), x.dtype)
    try:
        with recorder.following(model):
            found = model(given)
    except RecordingError as error:
        raise RefusedError(*(recorder.refused or [f"the model: {error}"])) from error
    except RefusedError:
        raise
    except Exception as error:
        if recorder.refused:
            raise RefusedError(*recorder.refused) from error
        # What the plain forward raises too is an error of the model, and raised here as such.
        with torch.no_grad():
            run_plainly(model, x[torch.arange(samples) % len(x)])
        raise RefusedError(
            f"{place_of(error, model)}: cannot be recorded, {told(error)}"
        ) from error
    if recorder.refused:
        raise RefusedError(*recorder.refused)
    output = recorder.read(_tensor(found))
    if output is None:
        raise RefusedError(
            "the model: returns something that no recorded operation made: a constant, or values "
            "that left the recording (numpy, data pointers, extensions)"
        )
    if not found.shape or found.shape[0] != samples:
        raise RefusedError(
            f"the model: returns shape {tuple(found.shape)} for {samples} samples; a row for each "
            f"is needed"
        )
    if not output.dtype.is_floating_point:
        raise RefusedError(f"the model: returns {output.dtype}, which has no distances")
    graph = one_sample(recorder.tape, output, x.shape[1:], recorder.marks)
    return replace(graph, coarsest=recorder.coarsest)


def check_equal(graph: Graph, found: Tensor, plain: Tensor) -> None:
    """Refuse a graph whose outputs are not those of the forward.

    Raises:
        RefusedError: naming what may be the reason.
    """
    if not plain.numel():
        return
    size = plain.double().abs().amax().clamp_min(1e-30)
    apart = (found - plain.double()).abs().amax() / size
    if not bool(apart <= AGREE.get(graph.coarsest, 1e-3)):
        raise RefusedError(
            f"the model: its forward differs from what was recorded by {float(apart):.2g} of its "
            f"outputs' size: a branch on the samples, the class of a tensor or the gradient mode"
        )


def _versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    state = [*model.named_parameters(), *model.named_buffers()]
    return {name: (id(t), t._version) for name, t in state}
