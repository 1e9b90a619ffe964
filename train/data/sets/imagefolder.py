"""Photographs in folders, one folder per class: ImageNet's layout."""

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..augment import policy_steps
from ..data_set import Splits, data_sets
from ..download import require
from ..evaluation_transform import evaluation_steps, normalizing_steps
from ..fold_storage import FileFold
from ..stratified_split import held_out, split_off

__all__ = ["imagefolder"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
READ = 2**28
"""Bytes of images that are read whole to know them again: a second's work."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


def _list(root: Path, part: str, classes: list[str]) -> tuple[list[str], Tensor]:
    """List the images of one part, class by class, relative to the root."""
    paths: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        before = len(paths)
        for folder, folders, files in os.walk(root / part / name):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            relative = Path(folder).relative_to(root)
            paths += [str(relative / file) for file in sorted(files) if _is_image(file)]
        targets += [target] * (len(paths) - before)
    if not paths:
        raise ValueError(
            f"{root / part} holds no images ({' '.join(SUFFIXES)}) in folders of classes; give "
            f"data.root=…"
        )
    return paths, torch.tensor(targets)


def _is_image(file: str) -> bool:
    """Whether a name is an image's; hidden files, such as `._1.jpg` of a Mac, are not."""
    return file.lower().endswith(SUFFIXES) and not file.startswith(".")


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


Files = tuple[list[str], Tensor]


def _digest(base: Path, names: list[str]) -> str:
    """SHA-256 of the images' names and sizes and, of a set of at most `READ` bytes, their content.

    Raises:
        ValueError: a file is a link to nowhere, or may not be read.
    """
    digest, total, file = hashlib.sha256(), 0, base
    try:
        for name in names:
            file = base / name
            size = file.stat().st_size
            total += size
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        for name in names if total <= READ else ():
            file = base / name
            digest.update(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}; replace or remove the file") from error
    return digest.hexdigest()


def _given(base: Path, parts: dict[str, Path], validation: float) -> tuple[list[str], Any]:
    """The classes and the files of each fold, where folders say which is which."""
    classes = _classes(base / "train")
    for folder in parts.values():
        unknown = set(_classes(folder)) - set(classes)
        if unknown:
            raise ValueError(f"{folder} holds the class {min(unknown)!r}, which train lacks")
    listed = {part: _list(base, part, classes) for part in parts}
    empty = set(range(len(classes))) - set(listed["train"][1].tolist())
    if empty:
        raise ValueError(f"{base / 'train' / classes[min(empty)]} holds no images")
    if "test" in listed:
        names = {"train": "train", "validation": "val", "test": "test"}
        return classes, {fold: listed[part] for fold, part in names.items()}
    train, held = _share(listed["train"], validation, classes)
    return classes, {"train": train, "validation": held, "test": listed["val"]}


def _cut(images: Files, validation: float, classes: list[str]) -> dict[str, Files]:
    """Cut the images of classes without parts: a fifth tests, a share of the rest validates."""
    rest, test = held_out(images[1], 0)
    train, held = _share(_chosen(images, rest), validation, classes)
    return {"train": train, "validation": held, "test": _chosen(images, test)}


def _share(images: Files, share: float, classes: list[str]) -> tuple[Files, Files]:
    """Take a stratified share of the images to validate on."""
    total = len(images[0])
    size = round(share * total)
    if size < len(classes):
        raise ValueError(
            f"data.validation={share} of {total} images is {size}, fewer than the {len(classes)} "
            f"classes; give at least {math.ceil(100 * len(classes) / total) / 100:g}"
        )
    rest, chosen = split_off(images[1], size)
    return _chosen(images, rest), _chosen(images, chosen)


def _chosen(images: Files, rows: Tensor) -> Files:
    return [images[0][i] for i in rows], images[1][rows]


def _pipeline(
    img_size: int, resize: int, policy: str, jitter: float, erasing: float, *, train: bool
) -> nn.Module:
    from torchvision.transforms import v2

    steps: list[nn.Module]
    if train and policy != "none":
        steps = [v2.RandomResizedCrop(img_size), v2.RandomHorizontalFlip(), *policy_steps(policy)]
    else:
        steps = evaluation_steps((img_size, img_size), resize)
    if train and jitter:
        steps.append(v2.ColorJitter(jitter, jitter, jitter))
    steps += normalizing_steps(MEAN, STD)
    if train and erasing:
        steps.append(v2.RandomErasing(p=erasing))
    return v2.Compose([*steps, v2.ToPureTensor()])


@data_sets.register(kind="image", source="files of the user's")
def imagefolder(
    *,
    root: str = "data",
    img_size: int = 224,
    resize: int = 256,
    validation: float = 0.02,
    policy: str = "crop_flip",
    jitter: float = 0.0,
    erasing: float = 0.0,
) -> Splits:
    """Photographs laid out as `root/train/<class>/*.jpg` and `root/val/<class>/*.jpg`.

    With a folder `root/test` as well, `val` validates and `test` tests. Without one, as for
    ImageNet, whose test labels are not public, `val` tests and a fixed stratified share of
    `train` validates. A folder of classes alone, `root/<class>/*.jpg`, is cut as tables are: a
    fixed stratified fifth tests, and the share validates. What begins with a dot is no class and
    no image.

    Args:
        root: Folder that holds `train` and `val`, or the classes.
        img_size: Side of the square that the model sees, in pixels.
        resize: Shorter side before the central crop, in pixels, at least img_size.
        validation: Share of the training images to validate on where no folder does, in (0, 1);
            it must be as many images as there are classes.
        policy: Augmentation: `none` (the central crop), `crop_flip` (a random resized crop,
            mirrored or not), or that followed by `trivial_augment` or `rand_augment`.
        jitter: Strength of random brightness, contrast and saturation, at least 0.
        erasing: Probability of erasing a random rectangle, in [0, 1].

    Raises:
        ValueError: a number out of range, a folder that is missing or empty, a class that occurs
            only outside `train`, or a share too small to validate on.
    """
    if img_size < 1:
        raise ValueError(f"img_size must be at least 1, got {img_size}")
    if resize < img_size:
        raise ValueError(f"resize must be at least img_size={img_size}, got {resize}")
    if not 0.0 < validation < 1.0:
        raise ValueError(f"validation must lie in (0, 1), got {validation}")
    if not jitter >= 0.0:
        raise ValueError(f"jitter must be at least 0, got {jitter}")
    if not 0.0 <= erasing <= 1.0:
        raise ValueError(f"erasing must lie in [0, 1], got {erasing}")
    policy_steps(policy)
    base = Path(root).absolute()
    require("imagefolder", base)
    parts = {part: base / part for part in ("train", "val", "test") if (base / part).is_dir()}
    if not parts:
        classes = _classes(base)
        files = _cut(_list(base, ".", classes), validation, classes)
    elif "train" not in parts or "val" not in parts:
        missing = "train" if "train" not in parts else "val"
        raise ValueError(
            f"imagefolder was not found in {base}: {missing}/ is missing; the layout is "
            f"train/CLASS/*.jpg and val/CLASS/*.jpg, with or without test/CLASS/*.jpg, or "
            f"CLASS/*.jpg alone"
        )
    else:
        classes, files = _given(base, parts, validation)
    folds: dict[str, Any] = {
        name: FileFold(
            base,
            names,
            labels,
            transform=_pipeline(img_size, resize, policy, jitter, erasing, train=name == "train"),
        )
        for name, (names, labels) in files.items()
    }
    about = {
        "source": str(base),
        "classes": classes,
        "sizes": {name: len(fold) for name, fold in folds.items()},
        # Of the file names, not of the pixels: reading a million photographs takes an hour.
        "sha256": {
            name: hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
            for name, (names, _) in files.items()
        },
        "files sha256": _digest(base, [name for names, _ in files.values() for name in names]),
    }
    shape = (3, img_size, img_size)
    evaluation = {
        "interpolation": "bilinear",
        "crop_mode": "center",
        # timm rounds the quotient of side and share down.
        "crop_pct": img_size / (resize + 0.5),
    }
    return Splits(
        *("image", shape, len(classes)),
        **folds,
        about=about,
        mean=MEAN,
        std=STD,
        evaluation=evaluation,
    )
