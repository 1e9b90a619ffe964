"""Foreign images for a data set, made without a network or taken from another data set."""

# Shape letters: N images, C channels, H height, W width.

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...zoo.registry import nearest
from ..data import Splits, data_sets
from .pixels import pixel_batches

__all__ = ["OutSet", "fit_images", "out_sets"]


def fit_images(pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bring foreign images to a shape: resized bilinearly, grey repeated or colours averaged.

    Args:
        pixels: (N, C, H, W) in [0, 1].
        shape: (C', H', W').

    Raises:
        ValueError: a change of channels that has no such meaning.
    """
    channels, height, width = shape
    if pixels.shape[1] != channels:
        if pixels.shape[1] != 1 and channels != 1:
            raise ValueError(f"images of {pixels.shape[1]} channels do not become {channels}")
        pixels = pixels.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if pixels.shape[2:] == (height, width):
        return pixels
    size = (height, width)
    return F.interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0.0, 1.0)


OURS = ("rotated", "noise")
OutSet = Callable[[], Iterator[Tensor]]


def out_sets(
    chosen: Iterable[str | Mapping[str, Any]],
    splits: Splits,
    name: str,
    *,
    samples: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, OutSet]:
    """Make out-sets for an image data set, as pixels of its shape.

    `rotated` is its own test fold, turned by 90°; `noise` are two sets of as many images,
    `noise_gaussian` with the mean and standard deviation of its channels, held in [0, 1], and
    `noise_uniform` on [0, 1]; `digits` all of scikit-learn's 1,797 scans, and any other registered
    image data set its test fold, both by `fit_images`.

    Args:
        chosen: Names, or mappings with `name` and the data set's options.
        splits: The in-set.
        name: Its name, which is no out-set.
        samples: At most how many images of each.
        batch_size: Images in a batch.
        seed: Of noise and of the choice of samples.
        device: Where to put them.
        dtype: Of the pixels.

    Returns:
        For each set a function that yields its batches.

    Raises:
        ValueError: no such set or option, data that is missing, the in-set itself, or images that
            cannot be turned or brought to the shape.
    """
    if splits.kind != "image" or splits.mean is None or splits.std is None:
        raise ValueError(f"out-sets are images, but {name} gives {splits.kind}; write out=[]")
    mean, std = splits.mean, splits.std
    options = {"batch_size": batch_size, "seed": seed, "device": device, "dtype": dtype}

    def inside() -> Iterator[Tensor]:
        return (x for x, _ in pixel_batches(splits.test, mean, std, samples=samples, **options))

    def rotated() -> Iterator[Tensor]:
        return (x.rot90(1, (2, 3)) for x in inside())

    def noise(gaussian: bool) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for x in inside():
            if gaussian:
                scale, shift = (torch.tensor(v)[:, None, None] for v in (std, mean))
                drawn = torch.randn(x.shape, generator=generator) * scale + shift
            else:
                drawn = torch.rand(x.shape, generator=generator)
            yield drawn.clamp(0.0, 1.0).to(x)

    sets: dict[str, OutSet] = {}
    for entry in chosen:
        given = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
        wanted = given.pop("name", None)
        if not isinstance(wanted, str):
            raise ValueError(f"an out-set needs a name, such as {{name: digits}}, got {entry!r}")
        if wanted == name:
            raise ValueError(f"{name} is what the model is measured on, and no out-set")
        if wanted not in (*OURS, *data_sets.names()):
            images = [other for other in data_sets.names() if data_sets[other].kind == "image"]
            raise ValueError(f"no out-set {wanted!r}{nearest(wanted, [*OURS, *images])}")
        if wanted in sets or (wanted == "noise" and "noise_uniform" in sets):
            raise ValueError(f"the out-set {wanted} is named twice")
        if given and wanted in OURS:
            raise ValueError(f"{wanted} takes no options, got {', '.join(map(str, given))}")
        if wanted == "noise":
            sets["noise_gaussian"] = lambda: noise(True)
            sets["noise_uniform"] = lambda: noise(False)
        elif wanted == "rotated":
            if splits.shape[1] != splits.shape[2]:
                raise ValueError(f"rotated needs square images, {name} has {splits.shape}")
            sets["rotated"] = rotated
        else:
            sets[wanted] = _foreign(wanted, given, splits.shape, samples, options)
    return sets


def _foreign(
    name: str,
    given: Mapping[str, Any],
    shape: tuple[int, ...],
    samples: int | None,
    options: Mapping[str, Any],
) -> OutSet:
    """The test fold of another data set; of the digits all folds, since none was trained on."""
    if data_sets[name].kind != "image":
        raise ValueError(f"out-sets are images, but {name} gives {data_sets[name].kind}")
    if name == "digits":
        given = {"augment": False, **given}
    other = data_sets.build(name, **given)
    folds = (other.train, other.validation, other.test) if name == "digits" else (other.test,)

    def batches() -> Iterator[Tensor]:
        left = samples
        for fold in folds:
            if left == 0:
                return
            for x, _ in pixel_batches(fold, other.mean, other.std, samples=left, **options):
                yield fit_images(x, shape)
            if left is not None:
                left = max(0, left - len(fold))

    return batches
