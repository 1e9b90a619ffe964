"""Small runs on every kind of data, and a table and images of which their files are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ..small_runs import train

COLOURS = ("red", " blue", "", "green")
COLOURS = ("red", " blue", "", "green")
ROWS = "size,colour,kind\n" + "".join(
    f"{(i * 37 % 11) / 3 if i % 7 else ''},{COLOURS[i % 4]},{'xy'[i % 3 == 0]}\n" for i in range(90)
)
TEXT = "".join(f"line {i}: the {('cat', 'dog')[i % 2]} sat on mat {i * i}.\n" for i in range(400))


def draw_images(root: Path, classes: tuple[str, ...], size: tuple[int, int] = (11, 9)) -> Path:
    """Files of images in the layout of `imagefolder`: noise around a shade of each class."""
    noise = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            shade = 40 * (1 + sum(map(ord, name)) % 5)
            for i in range(6):
                pixels = noise.normal(shade, 45, (*size, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def everything(fold) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples of a fold."""
    return fold.__getitems__([(0, i) for i in range(len(fold))])


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Where the files and the runs on them lie."""
    place = tmp_path_factory.mktemp("subject")
    (place / "t.csv").write_text(ROWS)
    (place / "text.txt").write_text(TEXT)
    draw_images(place / "images", ("ape", "bee", "cat"))
    return place


@pytest.fixture(scope="session")
def digits(place) -> Path:
    """A run of an MLP on the digits."""
    train(place / "digits", "trainer.steps=60", "optim.lr=0.01")
    return place / "digits"


@pytest.fixture(scope="session")
def pictures(place) -> Path:
    """A run of a ResNet on files of images."""
    train(
        place / "pictures", "model=resnet_nano", "data=imagefolder", "trainer.batch_size=6",
        f"data.root={place / 'images'}", "data.img_size=8", "data.resize=10",
    )  # fmt: skip
    return place / "pictures"


@pytest.fixture(scope="session")
def rows(place) -> Path:
    """A run of an MLP on a table."""
    train(
        place / "rows", "data=tabular", "data.table=t", f"data.root={place}",
        "trainer.batch_size=8", "trainer.steps=30", "optim.lr=0.01",
    )  # fmt: skip
    return place / "rows"


@pytest.fixture(scope="session")
def text(place) -> Path:
    """A run of a GPT on a text."""
    train(
        place / "text", "model=gpt_nano", "data=bytes", f"data.path={place / 'text.txt'}",
        "data.context_length=16", "trainer.batch_size=8",
    )  # fmt: skip
    return place / "text"
