"""Which path may run: a hand-written gradient, a compiled kernel, or the definition."""

import functools
import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ._kernels import load_kernels

__all__ = [
    "is_installed",
    "kernel_takes",
    "one_plain_dtype",
    "records_gradients",
    "through_definition",
]


_PLAIN = (Tensor, nn.Parameter)


def records_gradients(*tensors: Tensor) -> bool:
    """Whether hand-written code may run on such tensors: not while another tool follows them.

    What traces, exports or transforms sees the definition: `torch.compile` and `torch.export`, the
    tracer of `torch.jit` and of the older ONNX export, `make_fx` and every other dispatch mode,
    `torch.func`, forward-mode gradients, and subclasses and proxies in place of tensors.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    ) and all(type(x) in _PLAIN for x in tensors)


def one_plain_dtype(*tensors: Tensor) -> bool:
    """Whether tensors are all float32 or all float64 numbers in the memory of the CPU.

    Subclasses, sparse and quantised tensors, and views that negate what they read are not.
    """
    dtype = tensors[0].dtype
    return dtype in (torch.float32, torch.float64) and all(
        t.dtype == dtype
        and t.device.type == "cpu"
        and type(t) in _PLAIN
        and t.layout == torch.strided
        and not t.is_neg()
        for t in tensors
    )


def kernel_takes(family: str, *tensors: Tensor) -> bool:
    """Whether the compiled kernels of a family may read and write such tensors.

    The one question before every kernel; True means that the family is loaded. What is left to the
    caller is the layout: a kernel checks sizes and strides, and throws where they are not what its
    loops assume.
    """
    return one_plain_dtype(*tensors) and load_kernels(family)


def through_definition(
    definition: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | float | None],
    gradient: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """Return the gradients of inputs by autograd of the definition, to be differentiated again."""
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    with torch.enable_grad():
        found = iter(
            torch.autograd.grad(
                definition(*inputs), wanted, gradient, create_graph=True, allow_unused=True
            )
        )
    return [next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs]


@functools.cache
def is_installed(package: str) -> bool:
    """Whether a package could be imported."""
    return importlib.util.find_spec(package) is not None
