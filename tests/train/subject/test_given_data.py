"""A model is measured on data as it was trained to read them, or is refused in one line."""

import dataclasses
import json

import pytest
import torch
from archzoo.train.data import ArrayFold, data_sets
from archzoo.train.data.augment import Normalize
from archzoo.train.errors import RunError
from archzoo.train.subject.evaluation import class_figures, corrupted_figures, fold_figures
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.zoo import create_model
from archzoo.zoo.share.save_load import save_model

from .conftest import draw_images, everything

pytestmark = pytest.mark.long

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def subject(place, data=None, keys=None, **options):
    data = data if keys is None else {"name": data, **keys}
    return model_on_data(find_model(str(place)), data, **options)


def figures(given, split="test", batch_size=16, **how):
    return fold_figures(given, split, batch_size=batch_size, **{**CPU, **how})[0]


@pytest.mark.parametrize("run", ["digits", "pictures", "rows", "text"])
def test_the_figures_of_a_run_are_those_that_it_reported(run, request):
    folder = request.getfixturevalue(run)
    reported = json.loads((folder / "result.json").read_text())
    given = subject(folder)
    assert given.own
    for split in ("test", "validation"):
        found, told = figures(given, split), reported[split]
        # To the rounding of float64, also where 237 tokens in batches of 128 had float32's before.
        assert found["accuracy"] == pytest.approx(told["accuracy"], abs=1e-12)
        assert found["nll"] == pytest.approx(told["loss"], rel=1e-5)
        if run == "text":
            assert found["bits_per_byte"] == pytest.approx(told["bits_per_byte"], rel=1e-5)


def test_the_figures_do_not_depend_on_the_batch_or_the_layout(pictures):
    given = subject(pictures)
    one = figures(given, batch_size=100)
    for size in (1, 5, 7):
        assert figures(given, batch_size=size) == pytest.approx(one, rel=1e-5)
    assert figures(given, channels_last=True) == pytest.approx(one, rel=1e-5)
    # A bfloat16 has 8 bits: logits of size 1 are off by some hundredths.
    narrow = figures(subject(pictures), dtype=torch.bfloat16)
    assert narrow["nll"] == pytest.approx(one["nll"], rel=0.05)
    assert narrow["samples"] == one["samples"] == 18
    wide = figures(subject(pictures), dtype=torch.float64)
    assert wide == pytest.approx(one, rel=1e-4)


def test_pixels_are_normalised_as_the_model_was_trained(digits, monkeypatch):
    """The same digits, kept by a data set that subtracts another mean and has another deviation."""
    splits = data_sets.build("digits")
    test: ArrayFold = splits.test  # pyright: ignore[reportAssignmentType]
    mean, std = (0.5,), (0.25,)
    other = ArrayFold(test.inputs, test.targets, transform=Normalize(mean, std, 16.0))
    moved = dataclasses.replace(splits, test=other, mean=mean, std=std)
    monkeypatch.setattr(data_sets, "build", lambda *_, **__: moved)
    given = subject(digits, other_data=True)
    inputs, targets = map(torch.cat, zip(*given.batches("test", 50), strict=True))
    expected, classes = everything(splits.test)
    torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-5)
    assert torch.equal(targets, classes)
    exact, classes = given.inputs("test")
    torch.testing.assert_close(exact, expected.double(), rtol=0, atol=1e-5)
    assert torch.equal(targets, classes) and given.std == splits.std != std


def test_classes_are_matched_by_name_whatever_their_order_or_number(pictures, place, tmp_path):
    model = create_model(f"local-dir:{pictures}")
    turned = torch.tensor([2, 0, 1])
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight[turned])
        model.head.bias.copy_(model.head.bias[turned])
    model.follow_data(label_names=["cat", "ape", "bee"])
    saved = save_model(model, tmp_path / "turned")
    one = subject(pictures)
    other = subject(saved, "imagefolder", {"root": str(place / "images")})
    assert other.order is not None and not other.own
    assert figures(other) == pytest.approx(figures(one), rel=1e-6)
    (found, outcomes), (_, before) = (
        fold_figures(each, "test", batch_size=16, **CPU) for each in (other, one)
    )
    shares = {row["class"]: row["accuracy"] for row in class_figures(other, outcomes)["classes"]}
    assert shares == {r["class"]: r["accuracy"] for r in class_figures(one, before)["classes"]}
    draw_images(tmp_path / "few", ("ape", "cat"))
    few = subject(saved, "imagefolder", {"root": str(tmp_path / "few")})
    rows = class_figures(few, fold_figures(few, "test", batch_size=9, **CPU)[1])["classes"]
    assert [(row["class"], row["samples"]) for row in rows] == [("cat", 6), ("ape", 6), ("bee", 0)]
    assert rows[2]["accuracy"] is None
    assert found["samples"] == 18


def test_photographs_are_cut_and_contexts_are_as_long_as_the_model_was_trained(
    pictures, text, place, tmp_path
):
    saved = save_model(create_model(f"local-dir:{pictures}"), tmp_path / "pictures")
    given = subject(saved, "imagefolder", {"root": str(place / "images")})
    assert torch.equal(*(everything(each.splits.test)[0] for each in (given, subject(pictures))))
    saved = save_model(create_model(f"local-dir:{text}"), tmp_path / "text")
    given = subject(saved, "bytes", {"path": str(place / "text.txt")})
    assert given.splits.shape == (16,)
    assert figures(given) == figures(subject(text))


def test_rows_of_another_cut_are_encoded_by_the_encoder_of_the_model(rows, place):
    own = create_model(f"local-dir:{rows}").conventions["encoder"]
    given = subject(rows, "tabular", {"split": 1})
    assert not given.own
    assert given.splits.about["encoder"] == own
    refitted = data_sets.build("tabular", table="t", root=str(place), split=1)
    assert refitted.about["encoder"] != own


def test_the_rows_of_a_table_that_lacks_a_column_are_refused_by_its_name(rows, tmp_path):
    lines = [f"{i},{'xy'[i % 2]}\n" for i in range(20)]
    (tmp_path / "u.csv").write_text("".join(["size,kind\n", *lines]))
    with pytest.raises(RunError, match="u.csv lacks the categorical column 'colour'"):
        subject(rows, "tabular", {"table": "u", "root": str(tmp_path)})


def test_corruptions_are_of_the_fold_and_the_mean_is_theirs(pictures):
    given = subject(pictures)
    names, severities = ["contrast", "gaussian_noise"], [1, 5]
    one = corrupted_figures(given, "test", names, severities, 0, batch_size=18, **CPU)
    again = corrupted_figures(given, "test", names, severities, 0, batch_size=5, **CPU)
    assert [(row["corruption"], row["severity"]) for row in one["rows"]] == [
        *(("contrast", 1), ("contrast", 5)),
        *(("gaussian_noise", 1), ("gaussian_noise", 5)),
    ]
    for key, value in one["mean"].items():
        for found, same in zip(one["rows"], again["rows"], strict=True):
            assert found[key] == pytest.approx(same[key], rel=1e-5)
        assert value == pytest.approx(sum(row[key] for row in one["rows"]) / 4, rel=1e-12)


def test_an_untrained_name_is_built_for_the_data():
    found = figures(subject("vit_nano", "digits"))
    assert found["nll"] == pytest.approx(torch.tensor(10.0).log().item(), rel=0.2)


def test_a_changed_data_set_is_refused_unless_it_is_meant(rows, place, tmp_path):
    lines = (place / "t.csv").read_text().splitlines(keepends=True)
    (tmp_path / "t.csv").write_text("".join(lines[:-9]))
    with pytest.raises(RunError, match="the data changed since .* began"):
        subject(rows, {"root": str(tmp_path)})
    assert subject(rows, {"root": str(tmp_path)}, other_data=True).own


def test_other_names_of_as_many_classes_are_scored_only_where_that_is_meant(pictures, tmp_path):
    options = {"root": str(draw_images(tmp_path / "renamed", ("ape", "bee", "dog")))}
    saved = save_model(create_model(f"local-dir:{pictures}"), tmp_path / "saved")
    with pytest.raises(RunError, match="the class 'cat' of the model is 'dog' in the data"):
        subject(saved, "imagefolder", options)
    given = subject(saved, "imagefolder", options, other_data=True)
    assert given.order is None and figures(given)["samples"] == 18


MISMATCHED = {
    "does not say which data to measure it on; say data=NAME": ("vit_nano", None, {}),
    "data=digitz: no such data set; did you mean 'digits'": ("vit_nano", "digitz", {}),
    "reads tokens, but data=digits gives image": ("{text}", "digits", {}),
    "reads image, but data=tabular gives features": ("{pictures}", "tabular", {}),
    "the data has 10 classes, the model 3": ("{pictures}", "digits", {}),
    "digits takes no keyword 'roof'": ("{digits}", "digits", {"roof": 1}),
    "the data has 2 classes, the model 10": ("{digits}", "tabular", {}),
}


@pytest.mark.parametrize(("message", "case"), MISMATCHED.items())
def test_data_that_do_not_fit_are_refused_in_one_line(message, case, request):
    where, data, options = case
    if where.startswith("{"):
        where = str(request.getfixturevalue(where.strip("{}")))
    with pytest.raises(RunError, match=message) as caught:
        subject(where, data, options)
    assert "\n" not in str(caught.value)


def test_other_channels_and_another_vocabulary_are_refused_in_one_line(tmp_path, place):
    grey = save_model(create_model("resnet_nano", in_chans=3, num_classes=10), tmp_path / "colour")
    with pytest.raises(RunError, match=r"takes no samples of shape \(1, 8, 8\)") as caught:
        subject(grey, "digits")
    assert "\n" not in str(caught.value)
    words = save_model(create_model("gpt_nano", vocab_size=300), tmp_path / "words")
    with pytest.raises(RunError, match="the data has a vocabulary of 256, the model 300"):
        subject(words, "bytes", {"path": str(place / "text.txt")})


def test_an_empty_fold_and_an_unknown_one_are_refused(digits, monkeypatch):
    splits = data_sets.build("digits")
    test: ArrayFold = splits.test  # pyright: ignore[reportAssignmentType]
    none = ArrayFold(test.inputs[:0], test.targets[:0], transform=test.transform)
    monkeypatch.setattr(data_sets, "build", lambda *_, **__: dataclasses.replace(splits, test=none))
    given = subject(digits, other_data=True)
    with pytest.raises(RunError, match="the test fold of digits holds no sample"):
        figures(given)
    with pytest.raises(RunError, match="split must be one of train, validation, test"):
        figures(given, split="tset")


def test_a_diverged_model_is_named_with_what_is_wrong(digits, tmp_path):
    model = create_model(f"local-dir:{digits}")
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    given = subject(save_model(model, tmp_path / "nan"), "digits")
    with pytest.raises(RunError, match="mlp_nano on digits: the logits hold .* not finite"):
        figures(given)


def test_a_table_has_no_pixels_to_corrupt():
    given = subject("mlp_nano", "tabular")
    with pytest.raises(RunError, match="corruptions are of images, but tabular gives features"):
        corrupted_figures(given, "test", ["contrast"], [1], 0, batch_size=9, **CPU)


def test_candidates_of_a_node_have_an_accuracy_and_no_classes():
    given = subject("poincare_embedding_nano", "tree")
    found, outcomes = fold_figures(given, "test", batch_size=9, **CPU)
    assert 0 <= found["accuracy"] <= 1 and found["samples"] == len(given.splits.test)
    assert class_figures(given, outcomes) == {}
