"""Augmentation of image batches, each sample by its own key, and normalisation."""

# Shape letters: N samples in a batch, C channels, H height, W width.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...zoo.registry import nearest
from .counter_random import counter_hash, counter_uniform, seeded

__all__ = ["POLICIES", "CropFlip", "Normalize", "PerSample", "policy_steps"]

POLICIES = ("none", "crop_flip", "trivial_augment", "rand_augment")


@dataclass(frozen=True)
class Normalize:
    """Maps pixels to (pixel / scale - mean) / std, channel by channel.

    Args:
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].
        scale: Value of the brightest pixel.

    Shape:
        (N, C, H, W) of any dtype -> (N, C, H, W) in float32.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch."""
        mean = torch.tensor(self.mean)[:, None, None] * self.scale
        std = torch.tensor(self.std)[:, None, None] * self.scale
        return images.to(torch.float32).sub_(mean).div_(std)


@dataclass(frozen=True)
class CropFlip:
    """Cuts the image out of a frame of zeros at a random place and may mirror it.

    Args:
        pad: Width of the frame in pixels; the image moves by at most that much.
        flip: Whether every second image, on average, is mirrored left to right.

    Shape:
        (N, C, H, W) -> (N, C, H, W), dtype kept.
    """

    pad: int
    flip: bool

    def __call__(self, images: Tensor, rounds: Tensor, indices: Tensor) -> Tensor:
        """Augment a batch, each image by its key."""
        count, _, height, width = images.shape
        draws = counter_uniform(rounds, indices, 3)
        top, left = ((draws[:, :2] * (2 * self.pad + 1)).long()).unbind(1)
        frame = F.pad(images, (self.pad,) * 4)
        # All windows as one view (N, C, 2 pad + 1, 2 pad + 1, H, W); indexing copies one each.
        windows = frame.unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(count), :, top, left]
        if self.flip:
            images = torch.where(draws[:, 2, None, None, None] < 0.5, images.flip(-1), images)
        return images


@dataclass(frozen=True)
class PerSample:
    """Applies a torchvision transform image by image, with torch's generator set by the key.

    Args:
        transform: Maps (C, H, W) in uint8 to the same.
        before: Batched augmentation to apply first.
    """

    transform: Callable[[Tensor], Tensor]
    before: CropFlip

    def __call__(self, images: Tensor, rounds: Tensor, indices: Tensor) -> Tensor:
        """Augment a batch, each image by its key."""
        augmented = []
        seeds = counter_hash(rounds, indices).tolist()
        for image, seed in zip(self.before(images, rounds, indices), seeds, strict=True):
            with seeded(seed):
                augmented.append(self.transform(image))
        return torch.stack(augmented)


def policy_steps(policy: str) -> list[Any]:
    """List the torchvision transforms that a policy adds to cropping and mirroring.

    Args:
        policy: `none`, `crop_flip`, `trivial_augment` (Müller and Hutter 2021,
            arXiv:2103.10158) or `rand_augment` (Cubuk et al. 2019, arXiv:1909.13719; two
            operations of magnitude 9).

    Raises:
        ValueError: no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"no policy named {policy!r}{nearest(policy, POLICIES)}")
    if policy in ("none", "crop_flip"):
        return []
    from torchvision.transforms import v2

    return [v2.TrivialAugmentWide() if policy == "trivial_augment" else v2.RandAugment()]
