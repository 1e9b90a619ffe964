"""A trained model carries what its data were: classes, statistics, cut, and a table's encoder."""

import csv
import json

import numpy as np
import pytest
import torch
from archzoo.train.data import data_sets
from archzoo.train.data.table_encoder import TableEncoder
from archzoo.train.data.table_files import read_csv
from archzoo.zoo import create_model
from archzoo.zoo.share.save_load import save_model
from PIL import Image

from .small_runs import train


def everything(fold) -> tuple[torch.Tensor, torch.Tensor]:
    return fold.__getitems__([(0, i) for i in range(len(fold))])


def accuracy(model, inputs, targets) -> float:
    with torch.no_grad():
        return float((model.eval()(inputs).argmax(-1) == targets).double().mean())


def reported(run) -> float:
    return json.loads((run / "result.json").read_text())["test"]["accuracy"]


@pytest.mark.parametrize("sides", [(8, 8), (8, 11), (10, 12)])
def test_timms_evaluation_of_a_saved_model_is_the_runs_own(tmp_path, sides):
    from timm.data import create_transform, resolve_model_data_config

    size, resize = sides
    noise = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for shade, name in enumerate(("dark", "light")):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = noise.integers(0, 128, (17, 13, 3)) + 120 * shade
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    train(
        tmp_path / "run", "model=resnet_nano", "data=imagefolder", "trainer.batch_size=4",
        f"data.root={tmp_path / 'data'}", f"data.img_size={size}", f"data.resize={resize}",
    )  # fmt: skip
    model = create_model(f"local-dir:{tmp_path / 'run'}")
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    names = model.default_cfg["label_names"]
    images, targets = [], []
    for path in sorted((tmp_path / "data" / "test").glob("*/*.png")):
        images.append(transform(Image.open(path)))
        targets.append(names.index(path.parent.name))
    splits = data_sets.build(
        "imagefolder", root=str(tmp_path / "data"), img_size=size, resize=resize
    )
    inputs, _ = everything(splits.test)
    torch.testing.assert_close(torch.stack(images), inputs, rtol=0, atol=1e-6)
    assert accuracy(model, torch.stack(images), torch.tensor(targets)) == reported(tmp_path / "run")


def test_the_statistics_of_the_digits_are_those_of_the_run(tmp_path):
    train(tmp_path, "model=resnet_nano")
    facts = create_model(f"local-dir:{tmp_path}").default_cfg
    assert facts["mean"] == [0.3053] and facts["std"] == [0.376]
    assert facts["input_size"] == [1, 8, 8]
    assert facts["label_names"] == [str(digit) for digit in range(10)]


def test_other_classes_take_the_names_away_and_a_copy_keeps_them(tmp_path):
    model = create_model("resnet_nano", num_classes=2)
    model.follow_data(label_names=["a", "b"], mean=[0.1, 0.2, 0.3])
    again = create_model(f"local-dir:{save_model(model, tmp_path / 'one')}")
    assert again.default_cfg["label_names"] == ["a", "b"]
    more = create_model(f"local-dir:{save_model(again, tmp_path / 'two')}", num_classes=5)
    assert "label_names" not in more.default_cfg


TABLE = "size,colour,kind\n" + "".join(
    f"{i % 7 if i % 5 else ''},{('red', 'blue', '')[i % 3]},{'xy'[i % 2]}\n" for i in range(60)
)


def test_new_rows_are_encoded_as_those_that_were_trained_on(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    train(
        tmp_path / "run", "data=tabular", "data.table=t", f"data.root={tmp_path}",
        "trainer.batch_size=8",
    )  # fmt: skip
    model = create_model(f"local-dir:{tmp_path / 'run'}")
    encoder = TableEncoder(**model.default_cfg["encoder"])
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    splits = data_sets.build("tabular", table="t", root=str(tmp_path))
    features = torch.from_numpy(encoder.encode_rows(rows))
    whole = torch.from_numpy(encoder.encode(read_csv(str(tmp_path), "t")))
    assert torch.equal(features, whole)
    inputs, targets = everything(splits.test)
    assert all((features == row).all(1).any() for row in inputs)
    assert model.default_cfg["label_names"] == ["x", "y"]
    assert accuracy(model, inputs, targets) == reported(tmp_path / "run")
    with pytest.raises(ValueError, match="a row lacks the column 'colour'"):
        encoder.encode_rows([{"size": 1}])
    with pytest.raises(ValueError, match="column 'size' holds numbers, got 'big'"):
        encoder.encode_rows([{"size": "big", "colour": "red"}])
    unseen = encoder.encode_rows([{"size": "?", "colour": "green"}])
    assert np.isfinite(unseen).all() and not unseen[0, 1:].any()
