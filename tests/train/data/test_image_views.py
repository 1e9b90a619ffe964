"""A part of an image set's classes, and its images turned: `data.classes` and `data.rotation`."""

import json

import pytest
import torch
from archzoo.train.check import check_run
from archzoo.train.data import data_sets
from archzoo.train.data.image_arrays import ImageView, image_splits
from archzoo.train.errors import RunError
from archzoo.zoo import create_model

from ..small_runs import configure, train

ARRAYS = [n for n in data_sets.names() if "shape" in data_sets[n].about
          and data_sets[n].kind == "image"]  # fmt: skip
FOLDS = ("train", "validation", "test")


def seen(**view):
    """Splits of a set of four classes whose images are not square, under a view."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 1, 4, 6), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 4
    return image_splits(
        (pixels[:40], labels[:40]), (pixels[40:], labels[40:]), validation=12, classes=list("abcd"),
        source="drawn", mean=(0.5,), std=(0.3,), view=ImageView(**view),
    )  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_every_image_set_in_memory_can_be_seen_in_part_and_turned(name):
    assert {"classes", "rotation"} <= data_sets[name].options.keys()


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("classes", [[0, 1], [3, 0], [2]])
def test_some_classes_are_those_of_the_same_fold_of_the_whole_set(fold, classes):
    whole, part = getattr(seen(), fold), seen(classes=classes)
    assert part.num_classes == len(classes) == len(part.about["classes"])
    assert part.about["classes"] == ["abcd"[number] for number in classes]
    kept = torch.isin(whole.targets, torch.tensor(classes))
    got = getattr(part, fold)
    assert torch.equal(got.inputs, whole.inputs[kept])
    assert torch.equal(torch.tensor(classes)[got.targets], whole.targets[kept])
    assert part.about["sizes"][fold] == int(kept.sum()) > 0


@pytest.mark.parametrize("fold", FOLDS)
def test_images_are_turned_counter_clockwise_and_keep_their_labels(fold):
    whole = getattr(seen(), fold)
    turned = {degrees: getattr(seen(rotation=degrees), fold) for degrees in (0, 90, 180, 270)}
    for degrees, got in turned.items():
        assert torch.equal(got.inputs.rot90(-degrees // 90, (2, 3)), whole.inputs)
        assert torch.equal(got.targets, whole.targets)
    # The upper right corner comes to the upper left.
    assert torch.equal(turned[90].inputs[..., 0, 0], whole.inputs[..., 0, -1])
    assert seen(rotation=90).shape == (1, 6, 4) and seen(rotation=180).shape == (1, 4, 6)


def test_another_view_is_other_data():
    digests = [seen(**view).about["sha256"]["test"] for view in ({}, {"rotation": 90},
               {"classes": [0, 1]}, {"classes": [1, 0]})]  # fmt: skip
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"rotation": 45}, "data.rotation must be 0, 90, 180 or 270, got 45"),
        ({"rotation": -90}, "got -90"),
        ({"classes": []}, r"data.classes must name some classes, each once, got \[\]"),
        ({"classes": [1, 1]}, r"each once, got \[1, 1\]"),
        ({"classes": [0, 4]}, r"data.classes must lie in \[0, 3\], got 4"),
        ({"classes": [-1]}, r"data.classes must lie in \[0, 3\], got -1"),
    ],
)
def test_what_is_no_view_is_refused(view, message):
    with pytest.raises(ValueError, match=message):
        seen(**view)


def test_a_fold_without_any_of_the_classes_is_refused():
    pixels, labels = torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1] * 4)
    with pytest.raises(ValueError, match=r"the test fold has no image of data.classes=\[1\]"):
        image_splits(
            (pixels, labels), (pixels, 0 * labels), validation=4, classes=["a", "b"],
            source="drawn", mean=(0.5,), std=(0.3,), view=ImageView(classes=[1]),
        )  # fmt: skip


def test_a_model_is_checked_against_the_classes_that_are_kept():
    chosen = ("model=vit_nano", "data=digits", "data.classes=[5,6,7]")
    check_run(configure(*chosen, "model.num_classes=3"))
    with pytest.raises(RunError, match="model.num_classes=10, but data digits has 3"):
        check_run(configure(*chosen, "model.num_classes=10"))


@pytest.mark.long
def test_an_adapter_of_other_classes_says_whether_the_head_is_trained(tmp_path):
    train(tmp_path / "base", "data.classes=[0,1,2,3,4]")
    started = [f"init={tmp_path / 'base'}", "data.classes=[5,6,7,8,9]", "adapter=lora"]
    said = {}
    for name, more in {"frozen": [], "trained": ["adapter.train_also=[head]"]}.items():
        train(tmp_path / name, *started, *more)
        said[name] = json.loads((tmp_path / name / "init.json").read_text())["head"]
        names = create_model(f"local-dir:{tmp_path / name}").conventions["label_names"]
        assert list(names) == ["5", "6", "7", "8", "9"]
    kept = "head: kept, though its classes were 0, 1, 2 and 2 more and are 5, 6, 7 and 2 more"
    leaves = "; the adapter leaves it so, and adapter.train_also=[head] trains it"
    assert said == {"frozen": kept + leaves, "trained": kept}
