"""Which path may run: a hand-written gradient, a compiled kernel, a public one, the definition."""

import functools
import importlib.util

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .._kernels import load_kernels
from .stream import routing_is_frozen

__all__ = ["kernel_takes", "public_kernel_takes", "records_references"]


def records_references() -> bool:
    """Whether hand-written gradients may run: not while another tool traces the definition."""
    return not (
        torch.compiler.is_compiling()
        or routing_is_frozen()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
    )


def kernel_takes(family: str, *tensors: Tensor) -> bool:
    """Whether a family's kernel can run: contiguous CPU tensors, all float32 or all float64."""
    dtype = tensors[0].dtype
    return (
        dtype in (torch.float32, torch.float64)
        and all(t.device.type == "cpu" and t.dtype == dtype for t in tensors)
        and all(t.is_contiguous() and type(t) in (Tensor, nn.Parameter) for t in tensors)
        and load_kernels(family)
    )


def public_kernel_takes(*tensors: Tensor) -> bool:
    """Whether flash-linear-attention's fused operator can run: CUDA tensors of one dtype."""
    first = tensors[0]
    alike = all(t.is_cuda and t.dtype == first.dtype and t.is_contiguous() for t in tensors)
    return alike and _is_installed("fla")


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
