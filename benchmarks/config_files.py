"""Small data sets on the disk, in the layouts that the trainer reads, drawn from one seed."""

import random
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_files"]

CLASSES = ("cat", "dog", "owl")
MNIST_IMAGES = {"train": 120, "t10k": 40}
CIFAR_FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
SYNSETS = [
    *("00000010 05 n 01 animal 0 001 ~ 00000020 n 0000", "00000070 20 n 01 plant 0 000"),
    "00000020 05 n 02 mammal 0 mammalian 0 001 @ 00000010 n 0000",
    *(f"{30 + i:08d} 05 n 01 kind{i} 0 001 @ 00000020 n 0000" for i in range(20)),
    *(f"{60 + i:08d} 05 n 01 breed{i} 0 001 @ {30 + i:08d} n 0000" for i in range(9)),
]


def write_files(root: Path) -> None:
    """Write tables, texts, photographs, MNIST, CIFAR-10 and WordNet, each of a few kilobytes.

    Args:
        root: Gets `tables`, `text.txt`, `texts`, `photos`, `parts`, `MNIST`, `FashionMNIST`,
            `cifar-10-batches-bin` and `data.noun`; `ended`, which holds a run's result; and
            `damaged`, with a table and a photograph that nothing can read.
    """
    draw = random.Random(0)
    numbers = np.random.default_rng(0)
    _tables(root / "tables", draw)
    (root / "texts").mkdir()
    for name in ("a.py", "b.py", "c.txt"):
        (root / "texts" / name).write_text(_text(draw, 4000))
    (root / "text.txt").write_text(_text(draw, 6000))
    for part in ("photos", "parts/train", "parts/val"):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(12):
                Image.fromarray(numbers.integers(0, 256, (14, 12, 3), np.uint8)).save(
                    folder / f"{i}.png"
                )
    for name in ("MNIST", "FashionMNIST"):
        _mnist(root / name / "raw", numbers)
    _cifar(root / "cifar-10-batches-bin", numbers)
    (root / "data.noun").write_text("".join(f"{line} | a gloss\n" for line in SYNSETS))
    (root / "ended").mkdir()
    (root / "ended" / "result.json").write_text("{}")
    (root / "damaged" / "cat").mkdir(parents=True)
    (root / "damaged" / "cat" / "0.png").write_bytes(b"no image")
    (root / "damaged" / "short.csv").write_text("a,b,target\n1,2,x\n3\n")


def _tables(folder: Path, draw: random.Random) -> None:
    """Two tables: numbers and categories with gaps, the target last; the target in the middle."""
    folder.mkdir()
    rows = [
        [f"{draw.gauss(0, 1):.3f}", draw.choice(["red", "blue", ""]), draw.choice(["0", "1", "2"])]
        for _ in range(90)
    ]
    (folder / "mixed.csv").write_text(_csv([["height", "colour", "target"], *rows]))
    rows = [[str(draw.random()), draw.choice("yn"), str(draw.random())] for _ in range(60)]
    (folder / "middle.csv").write_text(_csv([["a", "ripe", "b"], *rows]))


def _csv(rows: list[list[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in rows)


def _text(draw: random.Random, length: int) -> str:
    words = ("def", "return", "the", "stream", "of", "=", "(", ")", "\n", "x", "y")
    return " ".join(draw.choice(words) for _ in range(length // 3))


def _mnist(folder: Path, numbers: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for prefix, count in MNIST_IMAGES.items():
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            top = 256 if len(shape) == 3 else 10
            header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
            content = header + numbers.integers(0, top, shape, np.uint8).tobytes()
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(content)


def _cifar(folder: Path, numbers: np.random.Generator) -> None:
    folder.mkdir()
    for name in CIFAR_FILES:
        rows = numbers.integers(0, 256, (20, 3073), np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class{i}\n" for i in range(10)))
