"""Tables: what is fitted is fitted on the training fold, what is wrong is named."""

import json
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from archzoo.train.data import data_sets

FOLDS = ("train", "validation", "test")


def write_table(root, rows=40, name="plants"):
    """A number with gaps, a colour with gaps, a code in digits; three classes."""
    lines = ["height,colour,code,target"]
    for i in range(rows):
        height = "" if i % 7 == 0 else f"{i * 0.5 - 3}"
        colour = ("", "red", "green", "blue")[i % 4]
        lines.append(f"{height},{colour},{i % 3},{'abc'[i % 3]}")
    path = root / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def build(root, **options):
    return data_sets.build("tabular", table="plants", root=str(root), **options)


@pytest.mark.parametrize(
    ("table", "shape", "classes", "rows"),
    [
        ("breast_cancer", (30,), 2, 569),
        ("wine", (13,), 3, 178),
        ("iris", (4,), 3, 150),
        ("digits", (64,), 10, 1797),
    ],
)
def test_a_bundled_table_has_its_published_size(table, shape, classes, rows):
    splits = data_sets.build("tabular", table=table)
    assert (splits.kind, splits.shape, splits.num_classes) == ("features", shape, classes)
    assert sum(splits.about["sizes"].values()) == rows
    inputs, targets = splits.train.__getitems__([(0, 0), (0, 3)])
    assert inputs.shape == (2, *shape)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64


def test_the_five_splits_test_every_row_once_and_repeat_themselves():
    tested = []
    for split in range(5):
        splits = data_sets.build("tabular", table="iris", split=split)
        again = data_sets.build("tabular", table="iris", split=split)
        assert splits.about == again.about
        assert splits.test.targets.bincount().tolist() == [10, 10, 10]
        assert (splits.about["sizes"]["validation"], splits.about["sizes"]["train"]) == (15, 105)
        tested.append(splits.about["sha256"]["test"])
    assert len(set(tested)) == 5


def test_training_features_have_mean_zero_and_variance_one():
    inputs = data_sets.build("tabular", table="breast_cancer").train.inputs.double()
    # Rounding of float32 features of order one, averaged.
    torch.testing.assert_close(inputs.mean(0), torch.zeros(30).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        inputs.var(0, correction=0), torch.ones(30).double(), atol=1e-5, rtol=0
    )


def test_other_test_and_validation_rows_leave_the_training_features_as_they_are(tmp_path):
    path = write_table(tmp_path)
    before = build(tmp_path)
    header, *rows = path.read_text().splitlines()
    training = {row for row in range(40)} - rows_outside_training()
    for row in rows_outside_training():
        *_, code, target = rows[row].split(",")
        rows[row] = f"1e6,violet,{code},{target}"
    path.write_text("\n".join([header, *rows]) + "\n")
    after = build(tmp_path)
    assert len(training) == len(before.train)
    assert torch.equal(before.train.inputs, after.train.inputs)
    assert not torch.equal(before.test.inputs, after.test.inputs)


def rows_outside_training():
    """The rows that the partition of `write_table` holds out, found from the targets alone."""
    from archzoo.train.data.stratified_split import held_out, split_off

    targets = torch.arange(40) % 3
    rest, test = held_out(targets, 0)
    _, validation = split_off(targets[rest], len(rest) // 8)
    return set(test.tolist()) | set(rest[validation].tolist())


def test_categories_become_indicators_and_missing_is_one_of_them(tmp_path):
    write_table(tmp_path)
    splits = build(tmp_path)
    assert splits.about["columns"] == {"numeric": ["height", "code"], "categorical": ["colour"]}
    assert splits.shape == (2 + 4,)
    assert splits.about["classes"] == ["a", "b", "c"]
    for name in FOLDS:
        inputs = getattr(splits, name).inputs
        assert torch.isfinite(inputs).all()
        assert torch.equal(inputs[:, 2:].sum(1), torch.ones(len(inputs)))


def test_a_category_never_seen_in_training_is_all_zeros(tmp_path):
    path = write_table(tmp_path)
    header, *rows = path.read_text().splitlines()
    for row in rows_outside_training():
        height, _, code, target = rows[row].split(",")
        rows[row] = f"{height},violet,{code},{target}"
    path.write_text("\n".join([header, *rows]) + "\n")
    assert not build(tmp_path).test.inputs[:, 2:].any()


def test_an_index_says_which_columns_are_categorical(tmp_path):
    write_table(tmp_path)
    index = {"plants": {"rows": 40, "categorical": ["colour", "code"], "source": "a garden"}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    splits = build(tmp_path)
    assert splits.about["columns"]["categorical"] == ["colour", "code"]
    assert splits.about["source"] == "a garden"
    assert splits.shape == (1 + 4 + 3,)
    index["plants"]["categorical"] = ["code"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="'colour' holds text but is not declared categorical"):
        build(tmp_path)
    index["plants"]["rows"] = 41
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"plants.csv has 40 rows where index.json states 41"):
        build(tmp_path)


def test_a_class_with_one_member_needs_no_special_care(tmp_path):
    path = write_table(tmp_path)
    path.write_text(path.read_text() + "1,red,0,rare\n")
    for split in range(5):
        splits = build(tmp_path, split=split)
        assert splits.num_classes == 4
        assert sum(len(getattr(splits, name)) for name in FOLDS) == 41


def test_a_column_without_any_value_is_dropped(tmp_path):
    path = write_table(tmp_path)
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"empty,{header}", *(f",{row}" for row in rows)]) + "\n")
    assert build(tmp_path).shape == (2 + 4,)


def test_an_unknown_table_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="no bundled table named 'wines'; did you mean 'wine'"):
        data_sets.build("tabular", table="wines")
    write_table(tmp_path)
    with pytest.raises(ValueError, match="no table named 'plant'; did you mean 'plants'"):
        data_sets.build("tabular", table="plant", root=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,target\n1,x\n1,2,x\n", "line 3 has 3 cells, not 2"),
        ("a,target\n1,x\n1,\n", "line 3 has no target"),
        ("a,target\n1,x\n2,y\n", "2 rows and 2 classes"),
        ("a,target\n", "0 rows and 0 classes"),
        ("", "no header"),
    ],
)
def test_a_malformed_table_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "plants.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


@pytest.mark.long
def test_openml_that_cannot_be_reached_ends_in_one_line(monkeypatch, tmp_path):
    from sklearn.datasets import _openml

    def fail(*request, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(_openml, "urlopen", fail)
    with pytest.raises(ValueError, match=r"openml:31 could not be fetched .*no route") as caught:
        data_sets.build("tabular", table="openml:31", root=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_openml_codes_become_categories_and_gaps(monkeypatch):
    from sklearn import datasets

    size = np.arange(20) + 0.5
    colour = np.where(np.arange(20) % 5 == 0, np.nan, np.arange(20) % 2)

    def fetch(**query):
        assert query["name"] == "plants"
        return SimpleNamespace(
            data=np.stack([size, colour], 1),
            target=np.array(["yes", "no"] * 10, dtype=object),
            feature_names=["size", "colour"],
            categories={"colour": ["red", "blue"]},
        )

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    splits = data_sets.build("tabular", table="openml:plants")
    assert splits.about["columns"] == {"numeric": ["size"], "categorical": ["colour"]}
    assert splits.about["classes"] == ["no", "yes"]
    assert splits.shape == (1 + 3,)  # red, blue and missing
