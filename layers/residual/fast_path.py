"""Which path may run: a hand-written gradient, a compiled kernel, a public one, the definition."""

from torch import Tensor

from .._kernels import load_kernels
from ..fast_path import is_installed, kernel_suits, records_gradients
from .stream import routing_is_frozen

__all__ = ["kernel_takes", "public_kernel_takes", "records_references"]


def records_references() -> bool:
    """Whether hand-written gradients may run: not while another tool traces the definition."""
    return records_gradients() and not routing_is_frozen()


def kernel_takes(family: str, *tensors: Tensor) -> bool:
    """Whether a family's kernel can run: contiguous CPU tensors, all float32 or all float64."""
    contiguous = all(t.is_contiguous() for t in tensors)
    return contiguous and kernel_suits(*tensors) and load_kernels(family)


def public_kernel_takes(*tensors: Tensor) -> bool:
    """Whether flash-linear-attention's fused operator can run: CUDA tensors of one dtype."""
    first = tensors[0]
    alike = all(t.is_cuda and t.dtype == first.dtype and t.is_contiguous() for t in tensors)
    return alike and is_installed("fla")
