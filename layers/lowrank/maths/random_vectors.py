"""Random values of new vectors, alike on every device and in every dtype."""

import torch
from torch import Tensor

__all__ = ["normal", "uniform"]


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


def normal(shape: tuple[int, ...], std: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from N(0, std²), on the CPU and in float32; otherwise as `uniform`."""
    if like.is_meta:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    drawn = torch.empty(shape).normal_(std=std, generator=generator)
    return drawn.to(device=like.device, dtype=like.dtype)
