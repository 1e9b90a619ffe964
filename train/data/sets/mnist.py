"""MNIST and Fashion-MNIST: 28×28 grey images in IDX files, laid out as torchvision does.

The files are read here and not by torchvision, which prefers a pickled copy where one lies
about.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..augment import CropFlip
from ..data_set import Splits, data_sets
from ..download import download_and_unpack, require
from ..image_arrays import ImageView, image_splits

__all__ = ["fashion_mnist", "mnist", "read_idx"]

MNIST = "LeCun, Cortes, Burges 1998, yann.lecun.com/exdb/mnist"
FASHION = "Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, MIT licence"
CLASSES = {
    "mnist": [str(digit) for digit in range(10)],
    "fashion_mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
}


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of bytes: a header with the sizes in big-endian order, then the data.

    Args:
        path: File to read.

    Returns:
        uint8, of the shape that the header states.

    Raises:
        ValueError: not such a file, or longer or shorter than its header states.
    """
    content = path.read_bytes()
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of bytes; fetch it again")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    expected = start + torch.Size(shape).numel()
    if len(content) != expected:
        raise ValueError(
            f"{path} holds {len(content)} bytes where its header states {expected};"
            " it is damaged, fetch it again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def _read(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{folder}: {prefix} has images {tuple(images.shape)} and labels"
            f" {tuple(labels.shape)}; fetch the files again"
        )
    return images[:, None], labels.long()


def _splits(
    name: str,
    folder_name: str,
    root: str,
    download: bool,
    validation: int,
    augment: CropFlip | None,
    source: str,
    mean: float,
    std: float,
    view: ImageView,
) -> Splits:
    folder = Path(root, folder_name, "raw")
    files = [
        f"{prefix}-{kind}-ubyte"
        for prefix in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    if download and not all((folder / file).is_file() for file in files):
        from torchvision import datasets

        published = getattr(datasets, folder_name)
        for archive, md5 in published.resources:
            addresses = [mirror + archive for mirror in published.mirrors]
            download_and_unpack(name, addresses, folder, md5)
    require(name, folder, files, hint="give data.root=… or data.download=true")
    return image_splits(
        _read(folder, "train"),
        _read(folder, "t10k"),
        validation=validation,
        classes=CLASSES[name],
        source=source,
        mean=(mean,),
        std=(std,),
        augment=augment,
        view=view,
    )


@data_sets.register(kind="image", source=MNIST, shape=(1, 28, 28), num_classes=10)
def mnist(
    *,
    root: str = "data",
    download: bool = False,
    augment: bool = True,
    validation: int = 5000,
    classes: list[int] | None = None,
    rotation: int = 0,
) -> Splits:
    """70,000 handwritten digits of 28×28 pixels.

    The official 10,000 test images; `validation` of the 60,000 others are held out, fixed and
    stratified.

    Args:
        root: Folder that holds `MNIST/raw`.
        download: Whether to fetch what is missing.
        augment: Whether training images move by up to two pixels each way.
        validation: Images to validate on, of all classes.
        classes: Numbers of the classes to keep, which are numbered anew in this order.
        rotation: Degrees by which all images are turned counter-clockwise: 0, 90, 180 or 270.
    """
    crop = CropFlip(pad=2, flip=False) if augment else None
    facts, view = (MNIST, 0.1307, 0.3081), ImageView(classes, rotation)
    return _splits("mnist", "MNIST", root, download, validation, crop, *facts, view)


@data_sets.register(kind="image", source=FASHION, shape=(1, 28, 28), num_classes=10)
def fashion_mnist(
    *,
    root: str = "data",
    download: bool = False,
    augment: bool = True,
    validation: int = 5000,
    classes: list[int] | None = None,
    rotation: int = 0,
) -> Splits:
    """70,000 pictures of clothes of 28×28 pixels.

    The official 10,000 test images; `validation` of the 60,000 others are held out, fixed and
    stratified.

    Args:
        root: Folder that holds `FashionMNIST/raw`.
        download: Whether to fetch what is missing.
        augment: Whether training images move by up to two pixels each way and are mirrored.
        validation: Images to validate on, of all classes.
        classes: Numbers of the classes to keep, which are numbered anew in this order.
        rotation: Degrees by which all images are turned counter-clockwise: 0, 90, 180 or 270.
    """
    crop = CropFlip(pad=2, flip=True) if augment else None
    facts, view = (FASHION, 0.2860, 0.3530), ImageView(classes, rotation)
    return _splits("fashion_mnist", "FashionMNIST", root, download, validation, crop, *facts, view)
