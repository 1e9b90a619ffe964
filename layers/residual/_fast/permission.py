"""Whether a hand-written gradient of a residual, its compiled kernel or a public one may run."""

from torch import Tensor

from ...fast_path import is_installed, kernel_takes, records_gradients
from ..stream import routing_is_frozen

__all__ = ["kernel_reads", "public_kernel_takes", "records_references"]


def records_references(*tensors: Tensor) -> bool:
    """Whether hand-written gradients of such tensors may run: as `records_gradients` says, and not
    while routing is frozen."""
    return records_gradients(*tensors) and not routing_is_frozen()


def kernel_reads(family: str, *tensors: Tensor) -> bool:
    """Whether a family's kernel may read such tensors as they lie: as rows of contiguous memory."""
    return all(t.is_contiguous() for t in tensors) and kernel_takes(family, *tensors)


def public_kernel_takes(*tensors: Tensor) -> bool:
    """Whether flash-linear-attention's fused operator can run: CUDA tensors of one dtype."""
    first = tensors[0]
    alike = all(t.is_cuda and t.dtype == first.dtype and t.is_contiguous() for t in tensors)
    return alike and is_installed("fla")
