"""`archzoo connect`: a table, JSON, a picture, and one line for what is wrong."""

import json

import pytest
from archzoo.train.commands.__main__ import main
from archzoo.train.subject.given_data import CLASSIFIED
from archzoo.zoo import create_model
from archzoo.zoo.share import save_model

from ..data.sequences.protein_families import families, write_table
from ..small_runs import train

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds that have seen the digits for a second, and another architecture."""
    place = tmp_path_factory.mktemp("connect")
    for name, more in (("a", ["seed=0"]), ("b", ["seed=1"]), ("c", ["model.width=16"])):
        train(place / name, "trainer.steps=60", "optim.lr=0.01", *more)
    return place


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr()
    assert stopped.value.code and said.out == "" and said.err.count("\n") == 1
    return said.err


def test_two_seeds_are_matched_and_measured_before_and_after(runs, capsys, tmp_path):
    picture = tmp_path / "way.png"
    words = (str(runs / "a"), str(runs / "b"), "points=5", f"out={picture}")
    main(("connect", *words, "--json"))
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 360 and found["t"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found["agreement"]["after"] > found["agreement"]["before"]
    assert found["after"]["loss_barrier"] < found["before"]["loss_barrier"]
    reported = json.loads((runs / "a" / "result.json").read_text())["test"]["accuracy"]
    assert found["before"]["own_accuracy"][0] == pytest.approx(reported, abs=1e-12)
    ends = [[found[when]["loss"][end] for end in (0, -1)] for when in ("before", "after")]
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_line_for_each_way_and_each_layer(runs, capsys):
    main(("connect", str(runs / "a"), str(runs / "b"), "points=3", "split=validation"))
    said = capsys.readouterr().out
    assert "as they are" in said and "matched" in said and "trunk.branches.1.3" in said


SEQUENCES = ("model=encoder_nano", "data.root={root}/proteins.csv")
KINDS = {
    "features": ("data=tabular", "data.table=wine"),
    "tokens": (
        "model=gpt_nano",
        "data=bytes",
        "data.context_length=32",
        "data.path={root}/text.txt",
    ),
    "sequence": (*SEQUENCES, "data=sequences"),
    "masked": (*SEQUENCES, "data=masked_sequences"),
}


@pytest.mark.parametrize("kind", [kind for kind in CLASSIFIED if kind != "image"])
def test_networks_of_whatever_has_classes_are_connected(kind, tmp_path, capsys):
    rows = [("ab"[i % 2], one[0]) for i, one in enumerate(families(60, 1))]
    write_table(tmp_path / "proteins.csv", rows)
    (tmp_path / "text.txt").write_text("a text of a few words, and of the same words again. " * 99)
    told = [word.format(root=tmp_path) for word in KINDS[kind]]
    for seed in "01":
        train(tmp_path / seed, *told, f"seed={seed}")
    capsys.readouterr()
    main(("connect", str(tmp_path / "0"), str(tmp_path / "1"), "points=3", "--json"))
    found = json.loads(capsys.readouterr().out)
    assert found["agreement"]["after"] > found["agreement"]["before"]
    reported = json.loads((tmp_path / "0" / "result.json").read_text())["test"]
    for figure in ("loss", "accuracy"):
        assert found["before"][f"own_{figure}"][0] == pytest.approx(reported[figure], rel=1e-5)


READ_OTHERWISE = {
    "label_names": "the list of classes differs",
    "mean": "the mean of pixels differs, [0.1] and",
    "std": "the deviation of pixels differs, [0.1] and",
}


@pytest.mark.parametrize("key", READ_OTHERWISE)
def test_networks_that_read_samples_otherwise_are_refused(key, runs, capsys, tmp_path):
    other = create_model(f"local-dir:{runs / 'b'}")
    value = other.conventions[key]
    other.follow_data(**{key: value[::-1] if key == "label_names" else [0.1]})
    save_model(other, tmp_path / "other")
    said = refused(capsys, "connect", str(tmp_path / "other"), str(runs / "a"), "data=digits")
    assert READ_OTHERWISE[key] in said


def test_runs_on_two_splits_of_a_table_are_refused(tmp_path, capsys):
    for split in "01":
        told = ("model=mlp_nano", "data=tabular", "data.table=wine", f"data.split={split}")
        train(tmp_path / split, *told)
    capsys.readouterr()
    said = refused(capsys, "connect", str(tmp_path / "0"), str(tmp_path / "1"))
    assert "the encoder of a table's rows differs" in said


def test_a_picture_gets_the_folder_that_it_names(runs, capsys, tmp_path):
    picture = tmp_path / "new" / "way.png"
    main(("connect", str(runs / "a"), str(runs / "b"), "points=3", f"out={picture}"))
    assert picture.is_file()


CASES = {
    "data without classes": (("a", "b", "data=karate"), "reads karate; samples of kind graph are"),
    "two architectures": (
        ("a", "c"),
        "must be of one architecture, and differ: num_features is 32",
    ),
    "a name without weights": (("a", "mlp_nano"), "mlp_nano is a registered name"),
    "a picture of no format": (("a", "b", "out=way.foo"), "must be a picture's name"),
    "a picture without a name": (("a", "b", "out="), "must be a picture's name"),
    "too few points": (("a", "b", "points=2"), "points must be at least 3"),
    "no such run": (("a", "d"), "is no model"),
    "data of another shape": (("a", "b", "data=tabular"), "the model"),
    "an unknown key": (("a", "b", "point=3"), "there is no key 'point'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_connected_is_said_in_one_line(runs, capsys, case):
    words, word = CASES[case]
    told = [str(runs / each) if each in "abcd" else each for each in words]
    assert word in refused(capsys, "connect", *told)
