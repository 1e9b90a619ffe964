"""Random values of new vectors, alike on every device and in every dtype."""

import torch
from torch import Tensor

__all__ = ["uniform"]


def uniform(
    shape: tuple[int, ...], bound: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw from U(-bound, bound), on the CPU and in float32.

    Args:
        shape: Of the result.
        bound: Largest magnitude.
        like: Gives dtype and device; on the meta device nothing is drawn.
        generator: On the CPU.
    """
    if like.is_meta:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return drawn.to(device=like.device, dtype=like.dtype)
