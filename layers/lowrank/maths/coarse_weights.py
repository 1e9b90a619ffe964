"""Weights that a plain compression leaves: pruned by magnitude, 2:4, or quantised block by block.

They are what a low-rank path then compensates (`compensate`). Values are what the compressed weight
stands for; nothing is packed, so a tensor here is as large as before.

Source: 2:4 is the pattern of Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks",
arXiv:2104.08378; block-wise absolute maxima are those of Dettmers et al. 2021, arXiv:2110.02861.
Differs from them: nothing is trained after pruning; levels are evenly spaced.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .decompose import refuse_infinite

__all__ = ["block_quantised", "magnitude_pruned", "two_of_four"]


def magnitude_pruned(matrix: Tensor, share: float) -> Tensor:
    """Return W (..., rows, columns) without the share of its entries that are nearest to zero.

    Raises:
        ValueError: a share outside [0, 1), NaN or infinite values.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    refuse_infinite(matrix, "matrix")
    flat = matrix.detach().flatten().clone()
    # Whole numbers of entries, so that equal magnitudes are pruned by place and the share is met.
    flat[flat.abs().argsort(stable=True)[: int(share * flat.numel())]] = 0.0
    return flat.view(matrix.shape)


def two_of_four(matrix: Tensor) -> Tensor:
    """Return W (..., rows, columns) with the two largest of every four entries of a row.

    A last group of fewer than four keeps two, or one where it is alone.

    Raises:
        ValueError: NaN or infinite values.
    """
    refuse_infinite(matrix, "matrix")
    columns = matrix.shape[-1]
    groups = F.pad(matrix.detach(), (0, -columns % 4)).unflatten(-1, (-1, 4))
    order = groups.abs().argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(groups).scatter(-1, order[..., :2], 1.0)
    return (groups * kept).flatten(-2)[..., :columns]


def block_quantised(matrix: Tensor, bits: int, block: int = 64) -> Tensor:
    """Return W (..., rows, columns) at 2^bits - 1 evenly spaced levels of every block of a row.

    The levels lie between minus and plus the largest magnitude of the block, which is stored
    beside them; zero is a level.

    Args:
        matrix: W.
        bits: From 2 to 8.
        block: Entries that share a scale; the last block of a row may be shorter.

    Raises:
        ValueError: bits or a block out of range, NaN or infinite values.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must lie in [2, 8], got {bits}")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    refuse_infinite(matrix, "matrix")
    columns = matrix.shape[-1]
    blocks = F.pad(matrix.detach(), (0, -columns % block)).unflatten(-1, (-1, block))
    top = 2 ** (bits - 1) - 1
    step = blocks.abs().amax(-1, keepdim=True) / top
    levels = (blocks / torch.where(step > 0, step, 1)).round()
    return (levels * step).flatten(-2)[..., :columns]
