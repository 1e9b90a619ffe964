"""The orthogonal update of tokens by the kernel of the delta write.

Leaving out of y what lies along x is a delta write of the one column y along the direction x that
erases, with β = 1, and writes nothing.
"""

from collections.abc import Callable

from torch import Tensor

from .delta_kernel import write_by_kernel
from .permission import records_references

__all__ = ["orthogonal_by_kernel"]


def orthogonal_by_kernel(
    part: Callable[..., Tensor], x: Tensor, y: Tensor, eps: float
) -> Tensor | None:
    """Return x and the part of y across it, or None where the definition must run.

    Args:
        part: Definition of that part, for gradients that are differentiated again.
        x: Stream (…, D).
        y: Branch output (…, D).
        eps: ε of the update, the square of the delta write's.
    """
    if not records_references(x, y) or x.dtype != y.dtype:
        return None

    def write(column: Tensor, x: Tensor, *heads: Tensor, **options: object) -> Tensor:
        return part(x.unsqueeze(-2), column, over=-1, eps=eps)

    heads = y.new_ones((*y.shape[:-1], 1)), y.new_zeros((*y.shape[:-1], 1))
    across = write_by_kernel(write, y.unsqueeze(-2), x, *heads, "erase_only", eps**0.5)
    return None if across is None else x + across.squeeze(-2)
