"""CIFAR-10 and CIFAR-100 from their binary version; the Python version is a pickle."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..augment import CropFlip, PerSample, policy_steps
from ..data_set import Splits, data_sets
from ..download import download_and_unpack, require
from ..fold_storage import Augment
from ..image_arrays import ImageView, image_splits

__all__ = ["cifar10", "cifar100"]

SOURCE = "Krizhevsky 2009, Learning multiple layers of features from tiny images"
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Release:
    """One of the two sets, as the authors serve it."""

    name: str
    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    labels: int  # bytes of labels before the pixels; the last one is the class
    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR10 = _Release(
    name="cifar10",
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    names="batches.meta.txt",
    labels=1,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = _Release(
    name="cifar100",
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    names="fine_label_names.txt",
    labels=2,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


def _read(folder: Path, files: tuple[str, ...], labels: int) -> tuple[Tensor, Tensor]:
    record = labels + PIXELS
    parts = []
    for file in files:
        content = (folder / file).read_bytes()
        if not content or len(content) % record:
            raise ValueError(
                f"{folder / file} holds {len(content)} bytes, no multiple of {record};"
                " it is damaged, fetch it again"
            )
        parts.append(torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, record))
    rows = torch.cat(parts)
    images = rearrange(
        rows[:, labels:], "n (plane row column) -> n plane row column", plane=3, row=32
    )
    return images, rows[:, labels - 1].long()


def _augment(policy: str) -> Augment | None:
    steps = policy_steps(policy)
    if policy == "none":
        return None
    crop = CropFlip(pad=4, flip=True)
    return PerSample(steps[0], before=crop) if steps else crop


def _splits(
    release: _Release, root: str, download: bool, policy: str, validation: int, view: ImageView
) -> Splits:
    augment = _augment(policy)
    folder = Path(root, release.folder)
    files = (*release.train, release.test, release.names)
    if download and not all((folder / file).is_file() for file in files):
        address = f"https://www.cs.toronto.edu/~kriz/{release.archive}"
        download_and_unpack(release.name, [address], Path(root), release.md5)
    hint = "give data.root=… or data.download=true"
    pickled = Path(root, release.archive.replace("-binary.tar.gz", ""))
    for found in (f"{pickled}-batches-py", f"{pickled}-python"):
        if Path(found).is_dir():
            hint += f" ({found} is the pickled version, which is not read; the binary one is)"
    require(release.name, folder, files, hint=hint)
    return image_splits(
        _read(folder, release.train, release.labels),
        _read(folder, (release.test,), release.labels),
        validation=validation,
        classes=(folder / release.names).read_text(errors="replace").split(),
        source=SOURCE,
        mean=release.mean,
        std=release.std,
        augment=augment,
        view=view,
    )


@data_sets.register(kind="image", source=SOURCE, shape=(3, 32, 32), num_classes=10)
def cifar10(
    *,
    root: str = "data",
    download: bool = False,
    policy: str = "crop_flip",
    validation: int = 5000,
    classes: list[int] | None = None,
    rotation: int = 0,
) -> Splits:
    """60,000 colour photographs of 32×32 pixels in 10 classes.

    The official 10,000 test images; `validation` of the 50,000 others are held out, fixed and
    stratified.

    Args:
        root: Folder that holds `cifar-10-batches-bin`.
        download: Whether to fetch what is missing.
        policy: Augmentation: `none`, `crop_flip` (four pixels), or that followed by
            `trivial_augment` or `rand_augment`.
        validation: Images to validate on, of all classes.
        classes: Numbers of the classes to keep, which are numbered anew in this order.
        rotation: Degrees by which all images are turned counter-clockwise: 0, 90, 180 or 270.
    """
    return _splits(CIFAR10, root, download, policy, validation, ImageView(classes, rotation))


@data_sets.register(kind="image", source=SOURCE, shape=(3, 32, 32), num_classes=100)
def cifar100(
    *,
    root: str = "data",
    download: bool = False,
    policy: str = "crop_flip",
    validation: int = 5000,
    classes: list[int] | None = None,
    rotation: int = 0,
) -> Splits:
    """60,000 colour photographs of 32×32 pixels in 100 classes.

    The official 10,000 test images; `validation` of the 50,000 others are held out, fixed and
    stratified by the fine label.

    Args:
        root: Folder that holds `cifar-100-binary`.
        download: Whether to fetch what is missing.
        policy: Augmentation: `none`, `crop_flip` (four pixels), or that followed by
            `trivial_augment` or `rand_augment`.
        validation: Images to validate on, of all classes.
        classes: Numbers of the classes to keep, which are numbered anew in this order.
        rotation: Degrees by which all images are turned counter-clockwise: 0, 90, 180 or 270.
    """
    return _splits(CIFAR100, root, download, policy, validation, ImageView(classes, rotation))
