"""Which path may run: a hand-written gradient, a compiled kernel, or the definition."""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from ._kernels import load_kernels

__all__ = [
    "differentiates_backward",
    "differentiates_forward",
    "faster",
    "is_installed",
    "is_transformed",
    "kernel_takes",
    "kernels_taken",
    "one_plain_dtype",
    "records_gradients",
    "through_definition",
]


_PLAIN = {Tensor, nn.Parameter}
_TAKEN: ContextVar[set[str] | None] = ContextVar("kernels_taken", default=None)
Answer = TypeVar("Answer")


def faster(
    fast: Callable[..., Answer | None], definition: Callable[..., Answer], *given: Any, **named: Any
) -> Answer:
    """Answer of a fast form, or the definition's where the fast form says None.

    Args:
        fast: Equals the definition in outputs and gradients, wherever it answers.
        definition: What is computed.
        given: Arguments of both.
        named: Further ones, by name.
    """
    found = fast(*given, **named)
    return definition(*given, **named) if found is None else found


def records_gradients(*tensors: Tensor) -> bool:
    """Whether hand-written code may run on such tensors: not while another tool follows them.

    What traces, exports or transforms sees the definition: `torch.compile` and `torch.export`, the
    tracer of `torch.jit` and of the older ONNX export, `make_fx` and every other dispatch mode,
    `torch.func`, forward-mode gradients, and subclasses and proxies in place of tensors.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or is_transformed()
        or torch._C._len_torch_dispatch_stack() > 0
    ) and _PLAIN.issuperset(map(type, tensors))


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is at work, or forward differentiation."""
    return differentiates_forward() or torch._C._are_functorch_transforms_active()


def differentiates_forward() -> bool:
    """Whether tangents are carried along, by `torch.func.jvp` or a dual level."""
    return forward_ad._current_level >= 0


def one_plain_dtype(*tensors: Tensor) -> bool:
    """Whether tensors are all float32 or all float64 numbers in the memory of the CPU.

    Subclasses, sparse and quantised tensors, views that negate what they read, and zeros without
    memory are not.
    """
    dtype = tensors[0].dtype
    if dtype not in (torch.float32, torch.float64):
        return False
    for t in tensors:
        plain = t.dtype == dtype and t.is_cpu and type(t) in _PLAIN and t.layout == torch.strided
        if not plain or t.is_neg() or t._is_zerotensor():
            return False
    return True


def kernel_takes(family: str, *tensors: Tensor) -> bool:
    """Whether the compiled kernels of a family may read and write such tensors.

    The one question before every kernel; True means that the family is loaded. What is left to the
    caller is the layout: a kernel checks sizes and strides, and throws where they are not what its
    loops assume.
    """
    if not (one_plain_dtype(*tensors) and load_kernels(family)):
        return False
    taken = _TAKEN.get()
    if taken is not None:
        taken.add(family)
    return True


@contextlib.contextmanager
def kernels_taken() -> Iterator[set[str]]:
    """Families whose compiled kernels are allowed to run inside, filled as the code runs."""
    taken: set[str] = set()
    token = _TAKEN.set(taken)
    try:
        yield taken
    finally:
        _TAKEN.reset(token)


def differentiates_backward(*gradients: Tensor) -> bool:
    """Whether a backward pass must be made of operations that can be differentiated or traced.

    Gradients may also be a batch of them in disguise (`is_grads_batched`, vectorised Hessians).
    """
    return (
        torch.is_grad_enabled()
        or not records_gradients()
        or any(map(is_legacy_batchedtensor, gradients))
    )


def through_definition(
    definition: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | float | None],
    gradients: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """Return the gradients of inputs by autograd of the definition, to be differentiated again.

    The definition runs on aliases of the inputs. Each gradient is then by one argument alone, also
    where two arguments are one tensor, or where one was computed from another.

    Args:
        definition: What the hand-written function computes.
        inputs: Its arguments as they were given, with their graphs; tensors that need a gradient
            get one.
        gradients: Of its outputs.
    """
    differentiated = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [x.view_as(x) if isinstance(x, Tensor) and x.requires_grad else x for x in inputs]
        outputs = definition(*aliases)
        if isinstance(outputs, Tensor):
            outputs, gradients = [outputs], [gradients]  # type: ignore[list-item]
        reached = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
        wanted = [x for x in aliases if isinstance(x, Tensor) and x.requires_grad]
        if not reached or not wanted:
            return [None] * len(aliases)
        reached_outputs, covectors = zip(*reached, strict=True)
        found = iter(
            torch.autograd.grad(
                *(reached_outputs, wanted, covectors),
                create_graph=differentiated,
                allow_unused=True,
            )
        )
    return [next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in aliases]


@functools.cache
def is_installed(package: str) -> bool:
    """Whether a package could be imported."""
    return importlib.util.find_spec(package) is not None
