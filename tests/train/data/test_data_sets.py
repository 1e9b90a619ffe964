"""Every registered data set, on small files written here in the published formats."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from archzoo.train.data import Batches, data_sets, loader
from archzoo.train.data.sets.mnist import read_idx


def write_idx(path, array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.numpy().tobytes())


def write_mnist(root, folder="FashionMNIST"):
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for prefix, size in (("train", 60), ("t10k", 20)):
        pixels = torch.randint(0, 256, (size, 28, 28), dtype=torch.uint8)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (torch.arange(size) % 10).to(torch.uint8))
    return raw


def write_cifar(root, name):
    ten = name == "cifar10"
    folder = root / ("cifar-10-batches-bin" if ten else "cifar-100-binary")
    folder.mkdir()
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] if ten else ["train.bin"]
    for file in (*files, "test_batch.bin" if ten else "test.bin"):
        pixels = torch.randint(0, 256, (20, 3072), dtype=torch.uint8)
        fine = (torch.arange(20) % 10).to(torch.uint8)[:, None]
        labels = [fine] if ten else [fine + 10, fine]
        (folder / file).write_bytes(torch.cat([*labels, pixels], 1).numpy().tobytes())
    names = "batches.meta.txt" if ten else "fine_label_names.txt"
    count = 10 if ten else 100
    (folder / names).write_text("".join(f"class_{i}\n" for i in range(count)) + "\n")
    return folder


def write_photographs(root, parts=("train", "val"), count=10):
    from PIL import Image

    for part in parts:
        for number, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                colour = (hash_byte(part, i), 255 * number, 9 * i)
                Image.new("RGB", (24 + i, 20), colour).save(root / part / name / f"{i}.png")


def hash_byte(*parts):
    return hashlib.sha256(repr(parts).encode()).digest()[0]


def everything(fold):
    return fold.__getitems__([(0, i) for i in range(len(fold))])


def rows(fold):
    return {row.numpy().tobytes() for row in fold.inputs}


@pytest.fixture(params=["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"])
def small(request, tmp_path):
    """Name and splits of an image set, its files written by this module."""
    name = request.param
    if name == "digits":
        return name, data_sets.build(name)
    if name.startswith("cifar"):
        write_cifar(tmp_path, name)
    else:
        write_mnist(tmp_path, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name])
    return name, data_sets.build(name, root=str(tmp_path), validation=10)


@pytest.mark.processes
def test_importing_the_data_sets_imports_none_of_the_slow_libraries():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('archzoo')\n"
        f"package.__path__ = [{str(Path(__file__).parents[3])!r}]\n"
        "sys.modules['archzoo'] = package\n"
        "import archzoo.train.data\n"
        "assert not {'torchvision', 'sklearn', 'PIL', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_registered_is_what_is_built(small):
    name, splits = small
    facts = data_sets[name]
    assert facts.kind == splits.kind == "image"
    assert facts.about["shape"] == splits.shape
    assert facts.about["num_classes"] == splits.num_classes
    inputs, targets = everything(splits.train)
    assert inputs.shape[1:] == splits.shape
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert json.loads(json.dumps(splits.about)) == splits.about
    assert len(splits.about["classes"]) == splits.num_classes


def test_the_folds_of_an_image_set_are_disjoint(small):
    _, splits = small
    train, validation, test = map(rows, (splits.train, splits.validation, splits.test))
    assert not (train & validation) | (train & test) | (validation & test)
    sizes = splits.about["sizes"]
    assert sizes == {f: len(getattr(splits, f)) for f in ("train", "validation", "test")}


def test_the_validation_fold_is_stratified(small):
    _, splits = small
    counts = splits.validation.targets.bincount()
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 2


def test_only_the_training_fold_is_augmented(small):
    _, splits = small
    for fold, changes in ((splits.train, True), (splits.validation, False), (splits.test, False)):
        one, two = (fold.__getitems__([(r, i) for i in range(len(fold))])[0] for r in (1, 2))
        assert torch.equal(one, two) is not changes


def test_digits_are_the_published_partition():
    splits = data_sets.build("digits")
    assert splits.about["sizes"] == {"train": 1257, "validation": 180, "test": 360}
    assert splits.about["sha256"]["test"].startswith("bd8737f7e648")
    pixels, _ = data_sets.build("digits", augment=False).train.__getitems__(
        [(0, i) for i in range(1257)]
    )
    assert pixels.mean().abs() < 1e-3
    assert (pixels.std() - 1).abs() < 1e-3


def test_an_idx_file_reads_back(tmp_path):
    array = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    write_idx(tmp_path / "a", array)
    assert torch.equal(read_idx(tmp_path / "a"), array)


def test_a_short_idx_file_is_refused(tmp_path):
    raw = write_mnist(tmp_path)
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte holds 47055 bytes .* 47056"):
        data_sets.build("fashion_mnist", root=str(tmp_path))
    path.write_bytes(b"\x1f\x8bgzip")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is no IDX file"):
        data_sets.build("fashion_mnist", root=str(tmp_path))


def test_a_short_cifar_file_is_refused(tmp_path):
    path = write_cifar(tmp_path, "cifar10") / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="data_batch_3.bin holds 61459 bytes, no multiple of 3073"):
        data_sets.build("cifar10", root=str(tmp_path))


def test_a_label_without_a_class_is_refused(tmp_path):
    path = write_cifar(tmp_path, "cifar10") / "test_batch.bin"
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 9\], got 0 to 11"):
        data_sets.build("cifar10", root=str(tmp_path), validation=10)


def test_a_cifar_record_is_label_red_green_blue(tmp_path):
    folder = write_cifar(tmp_path, "cifar100")
    record = torch.cat([torch.tensor([3, 42]), torch.arange(3).repeat_interleave(1024)])
    (folder / "test.bin").write_bytes(record.to(torch.uint8).numpy().tobytes())
    test = data_sets.build("cifar100", root=str(tmp_path), validation=10).test
    assert test.targets.tolist() == [42]
    assert torch.equal(test.inputs[0].float().mean((1, 2)), torch.arange(3.0))


def test_the_pickled_cifar_is_named_and_not_read(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="cifar-10-batches-py is the pickled version"):
        data_sets.build("cifar10", root=str(tmp_path))


READ_FROM_A_FOLDER = [n for n in data_sets.names() if {"root", "path"} & set(data_sets[n].options)]


@pytest.mark.parametrize("name", READ_FROM_A_FOLDER)
def test_a_missing_data_set_names_the_folder_and_the_option(name, tmp_path):
    options = data_sets[name].options
    option = "root" if "root" in options else "path"
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ValueError) as caught:
        data_sets.build(name, **{option: str(nowhere)})
    message = str(caught.value)
    assert f"{name} was not found in {nowhere}" in message
    assert f"data.{option}=…" in message
    assert ("data.download=true" in message) is ("download" in options)
    assert "\n" not in message


def test_a_file_missing_among_others_is_named(tmp_path):
    (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is missing; give data.root"):
        data_sets.build("fashion_mnist", root=str(tmp_path))


def test_a_failed_download_says_where_and_why(tmp_path, monkeypatch):
    from torchvision.datasets import utils

    def refuse(url, *arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr(utils, "download_and_extract_archive", refuse)
    for name in ("mnist", "cifar10"):
        with pytest.raises(ValueError, match=rf"{name} could not be downloaded .*: no route"):
            data_sets.build(name, root=str(tmp_path), download=True)


def test_without_a_test_folder_a_share_of_train_validates_and_val_tests(tmp_path):
    write_photographs(tmp_path)
    splits = data_sets.build(
        "imagefolder", root=str(tmp_path), img_size=16, resize=18, validation=0.2
    )
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 4, 20)
    assert splits.validation.targets.bincount().tolist() == [2, 2]
    assert not set(splits.train.paths.tolist()) & set(splits.validation.paths.tolist())
    assert {str(path).split("/")[0] for path in splits.test.paths.astype(str)} == {"val"}
    assert splits.about["classes"] == ["cat", "dog"]
    inputs, targets = everything(splits.test)
    assert inputs.shape == (20, 3, 16, 16)
    green = inputs[:, 1].mean((1, 2)) > 0  # the writer paints dogs green
    assert torch.equal(green.long(), targets)


def test_with_a_test_folder_val_validates(tmp_path):
    write_photographs(tmp_path, ("train", "val", "test"), count=2)
    splits = data_sets.build("imagefolder", root=str(tmp_path), img_size=8, resize=8)
    for fold, part in ((splits.train, "train"), (splits.validation, "val"), (splits.test, "test")):
        assert {str(path).split("/")[0] for path in fold.paths.astype(str)} == {part}


# A machine with one core, and Python from 3.12 on, warn of workers as such.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("policy", ["none", "crop_flip", "trivial_augment", "rand_augment"])
def test_photographs_do_not_depend_on_workers_or_batches_or_disturb_a_generator(tmp_path, policy):
    write_photographs(tmp_path, count=4)
    fold = data_sets.build(
        "imagefolder",
        root=str(tmp_path),
        **{"img_size": 16, "resize": 18, "policy": policy, "validation": 0.2},
        **({"jitter": 0.4, "erasing": 0.5} if policy == "crop_flip" else {}),
    ).train
    before = torch.get_rng_state()
    batches = [
        list(loader(fold, Batches(len(fold), size, seed=1), workers=workers))
        for size, workers in ((6, 0), (3, 0), (3, 2 if policy == "crop_flip" else 0))
    ]
    one, two, three = (torch.cat([inputs for inputs, _ in b]) for b in batches)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert torch.equal(two, three)
    other, _ = next(iter(loader(fold, Batches(len(fold), 6, seed=2))))
    assert torch.equal(other, one) is (policy == "none")


def test_a_photograph_that_cannot_be_decoded_is_named(tmp_path):
    write_photographs(tmp_path, count=2)
    broken = tmp_path / "val" / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    splits = data_sets.build(
        "imagefolder", root=str(tmp_path), img_size=8, resize=8, validation=0.5
    )
    with pytest.raises(ValueError, match=r"val/cat/1.png cannot be decoded"):
        everything(splits.test)


def test_a_class_that_train_lacks_is_named(tmp_path):
    write_photographs(tmp_path, count=2)
    (tmp_path / "val" / "emu").mkdir()
    with pytest.raises(ValueError, match="val holds the class 'emu', which train lacks"):
        data_sets.build("imagefolder", root=str(tmp_path))
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match="train/emu holds no images"):
        data_sets.build("imagefolder", root=str(tmp_path))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("jitter", -0.1, "jitter must be at least 0, got -0.1"),
        ("erasing", -0.1, r"erasing must lie in \[0, 1\], got -0.1"),
        ("erasing", 1.5, r"erasing must lie in \[0, 1\], got 1.5"),
        ("validation", 1.0, r"validation must lie in \(0, 1\), got 1.0"),
        ("img_size", 0, "img_size must be at least 1, got 0"),
        ("resize", 8, "resize must be at least img_size=224, got 8"),
    ],
)
def test_an_option_of_photographs_out_of_range_is_refused_by_name(option, value, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        data_sets.build("imagefolder", root=str(tmp_path), **{option: value})
