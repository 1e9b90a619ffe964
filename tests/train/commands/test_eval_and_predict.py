"""`archzoo eval` and `archzoo predict`: tables, JSON, one line for what is wrong, exit codes."""

import json

import numpy as np
import pytest
from archzoo.train.commands.__main__ import main
from archzoo.train.measures.corruptions import CORRUPTIONS
from archzoo.zoo import create_model
from archzoo.zoo.share.save_load import save_model
from PIL import Image

from ..small_runs import train

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that has seen the digits for a second."""
    folder = tmp_path_factory.mktemp("eval") / "run"
    train(folder, "trainer.steps=60", "optim.lr=0.01")
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A network that has seen the wines."""
    folder = tmp_path_factory.mktemp("eval") / "wine"
    train(folder, "data=tabular", "data.table=wine", "trainer.batch_size=8")
    return folder


def told(capsys, *words: str) -> str:
    main(words)
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def found(capsys, *words: str):
    return json.loads(told(capsys, *words, "--json"))


def refused(capsys, *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return int(stopped.value.code or 0), said.err


def test_a_run_is_measured_on_its_own_test_fold(run, capsys):
    figures = found(capsys, "eval", str(run))
    reported = json.loads((run / "result.json").read_text())["test"]["accuracy"]
    assert (figures["model"], figures["data"], figures["split"]) == ("mlp_nano", "digits", "test")
    assert figures["samples"] == 360 and figures["trained"] is True
    assert figures["accuracy"] == pytest.approx(reported, abs=1e-12)
    assert figures["reported"] == reported
    matrix = np.array(figures["confusion"])
    assert matrix.sum() == 360
    assert matrix.trace() / 360 == pytest.approx(figures["accuracy"])
    assert [row["class"] for row in figures["classes"]] == [str(digit) for digit in range(10)]
    assert [row["samples"] for row in figures["classes"]] == matrix.sum(1).tolist()
    text = told(capsys, "eval", str(run))
    assert text.startswith("mlp_nano on digits, 360 samples of the test fold; the run reported ")
    cells = [line.split() for line in text.splitlines()]
    assert ["accuracy,", "%", f"{100 * reported:.2f}"] in cells
    assert ["3", *map(str, matrix[3])] in cells


def test_other_settings_change_what_they_say(run, capsys):
    figures = found(capsys, "eval", str(run), "split=validation", "confusion=false", "batch_size=7")
    assert figures["samples"] == 180 and "confusion" not in figures
    narrow = found(capsys, "eval", str(run), "dtype=bfloat16", "channels_last=true", "device=cpu")
    assert narrow["accuracy"] == pytest.approx(
        found(capsys, "eval", str(run))["accuracy"], abs=0.05
    )


def test_corruptions_are_a_table_with_its_means(run, capsys):
    words = ("eval", str(run), "corruptions=true", "severity=[1,5]")
    corrupted = found(capsys, *words)["corruptions"]
    assert [row["corruption"] for row in corrupted["rows"][::2]] == list(CORRUPTIONS)
    mean = sum(row["accuracy"] for row in corrupted["rows"]) / 16
    assert corrupted["mean"]["accuracy"] == pytest.approx(mean)
    lines = told(capsys, *words).splitlines()
    assert lines[-1].split()[0] == "mean" and lines[-1].split()[-1] == f"{100 * mean:.2f}"
    one = found(capsys, "eval", str(run), "corruptions=contrast", "severity=5")["corruptions"]
    assert one["rows"] == [row for row in corrupted["rows"] if row == one["rows"][0]]


def test_keys_of_the_data_are_given_as_for_training(table, run, capsys):
    whole = found(capsys, "eval", str(table))
    assert whole["data"] == "tabular" and whole["reported"] is not None
    other = found(capsys, "eval", str(table), "data=tabular", "data.table=wine", "data.split=1")
    assert other["reported"] is None and other["samples"] in (35, 36)
    same = found(capsys, "eval", str(table), "data={name: tabular, table: wine, split: 1}")
    assert {**same, "seconds": 0} == {**other, "seconds": 0}


def test_a_name_is_measured_untrained_and_says_so(capsys):
    text = told(capsys, "eval", "mlp_nano", "data=tabular", "data.table=iris")
    assert "its weights are untrained" in text.splitlines()[0]


WRONG = {
    (1, "runs/none is no model; there is no such folder"): ["eval", "runs/none"],
    (1, "say data=NAME, such as data=digits"): ["eval", "mlp_nano"],
    (2, "there is no key 'dta'; did you mean 'data'"): ["eval", "{run}", "dta=digits"],
    (2, "split must be test or validation or train"): ["eval", "{run}", "split=tset"],
    (1, "batch_size must be at least 1, got 0"): ["eval", "{run}", "batch_size=0"],
    (1, "no corruption named 'blurr'"): ["eval", "{run}", "corruptions=[blurr]"],
    (1, "severity must be one of 1, 2, 3, 4, 5, got 6"): [
        "eval", "{run}", "corruptions=true", "severity=6",
    ],
    (1, "severity must name at least one"): ["eval", "{run}", "severity=[]"],
    (1, "digits takes no keyword 'tabel'"): ["eval", "{run}", "data.tabel=wine"],
    (2, "model is missing"): ["eval"],
    (2, "there is no file to predict"): ["predict", "{run}"],
    (1, "mlp_nano is a registered name, which has no weights"): ["predict", "mlp_nano", "a.png"],
    (1, "top must be at least 1, got 0"): ["predict", "{run}", "a.png", "top=0"],
}  # fmt: skip


@pytest.mark.parametrize(("expected", "words"), WRONG.items())
def test_a_mistake_is_one_line_with_its_exit_code(expected, words, run, capsys):
    code, line = refused(capsys, *(word.format(run=run) for word in words))
    assert expected[0] == code and expected[1] in line
    assert line.startswith(f"archzoo {words[0]}: ")


def draw(path, shade: int) -> str:
    Image.fromarray(np.full((8, 8), shade, dtype=np.uint8)).save(path)
    return str(path)


def test_files_are_predicted_a_line_each(run, tmp_path, capsys):
    files = [draw(tmp_path / f"{shade}.png", shade) for shade in (0, 200)]
    lines = told(capsys, "predict", str(run), *files, "top=2").splitlines()
    rows = [
        json.loads(line)
        for line in told(capsys, "predict", str(run), *files, "top=2", "--json").splitlines()
    ]
    assert [row["input"] for row in rows] == files and len(lines) == 2
    for line, row in zip(lines, rows, strict=True):
        assert len(row["classes"]) == 2
        best = row["classes"][0]
        assert line.startswith(f"{row['input']}: {best['class']} {100 * best['probability']:.2f} %")


def test_what_cannot_be_read_is_said_and_the_rest_is_predicted(run, tmp_path, capsys):
    (tmp_path / "no.png").write_text("text")
    good = draw(tmp_path / "good.png", 90)
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", str(run), str(tmp_path / "no.png"), good, *flags])
        assert stopped.value.code == 1
        said = capsys.readouterr()
        first, last = said.err.splitlines()
        assert "no.png cannot be decoded" in first
        assert last == "archzoo predict: 1 of 2 inputs could not be predicted"
        assert good in said.out.splitlines()[-1]
        if flags:
            assert "error" in json.loads(said.out.splitlines()[0])


def test_a_saved_model_needs_no_run(table, tmp_path, capsys):
    saved = save_model(create_model(f"local-dir:{table}"), tmp_path / "saved")
    figures = found(capsys, "eval", str(saved), "data=tabular", "data.table=wine")
    assert figures["accuracy"] == found(capsys, "eval", str(table))["accuracy"]
    assert figures["reported"] is None
