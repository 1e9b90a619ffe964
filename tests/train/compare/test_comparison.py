"""A comparison from its axes to its files."""

import csv
import json
from pathlib import Path

import pytest
import torch
from archzoo.train.compare.comparison import compare_points
from archzoo.train.compare.comparison_files import found_of, table, write_files
from archzoo.train.report.page import write_report
from archzoo.train.report.run_record import read_run

HOW = {"batch_size": 8, "seconds": 0.0, "tokens": 2, "device": torch.device("cpu")}
RUNS = ["optim=adamw", "trainer.batch_size=32", "trainer.evaluate_every=3", "trainer.log_every=3",
        "callbacks=[none]", "logger=[csv]", "trainer.progress=false"]  # fmt: skip


def test_points_that_cannot_be_built_stand_in_the_table_with_their_reason(tmp_path):
    axes = {"model": ["mlp_nano", "gpt_nano", "mlp_nan"], "residual": ["add", "nothing"]}
    found = compare_points(axes, data=None, **HOW)
    assert [row.point.label for row in found.rows] == ["mlp_nano · add", "gpt_nano · add"]
    assert list(found.refused) == [
        "mlp_nano · nothing", "gpt_nano · nothing", "mlp_nan · add", "mlp_nan · nothing",
    ]  # fmt: skip
    text = table(found)
    assert "mlp_nan · add: no model named 'mlp_nan'; did you mean 'mlp_nano'" in text
    assert text.splitlines()[0].split("  ")[0] == "point" and "token, ms" in text
    write_files(found_of(found, {"data": None}), tmp_path)
    told = json.loads((tmp_path / "compare.json").read_text())
    assert [one["point"] for one in told["points"]] == ["mlp_nano · add", "gpt_nano · add"]
    with open(tmp_path / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0]["parameters"] == str(found.rows[0].sizes["parameters"])
    assert float(rows[1]["decode_ms_low"]) <= float(rows[1]["decode_ms"])
    assert rows[0]["decode_ms"] == "" and "did you mean" in rows[-1]["reason"]


def test_the_batch_and_the_sizes_follow_the_data():
    found = compare_points({"model": ["resnet_nano"]}, data="digits", **HOW)
    assert found.batch == [8, 1, 8, 8]


def test_nothing_that_can_be_built_leaves_the_reasons_alone():
    found = compare_points({"model": ["nothing"]}, data=None, **HOW)
    assert table(found).startswith("not there:\n  nothing: no model named 'nothing'")


@pytest.mark.long
def test_points_are_trained_at_equal_samples_once_and_reported(tmp_path, capsys):
    axes = {"model": ["mlp_nano"], "residual": ["add", "delta"]}
    how = {**HOW, "train": 6, "seeds": 2, "overrides": RUNS, "out": tmp_path}
    found = compare_points(axes, data="digits", **how)
    assert capsys.readouterr().out == ""  # that is for the answer
    for row in found.rows:
        assert [one.seed for one in row.trained] == [0, 1]
        for one in row.trained:
            assert [(at["step"], at["samples"]) for at in one.curve] == [(3, 96), (6, 192)]
            assert read_run(Path(one.folder)).costs == row.costs()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/result.json")}
    assert len(before) == 4
    again = compare_points(axes, data="digits", **how)
    assert [row.trained for row in again.rows] == [row.trained for row in found.rows]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "test accuracy, %" in table(found) and " ± " in table(found).splitlines()[1]
    report = write_report([tmp_path], tmp_path / "report.html")
    assert [(one["point"], len(one["runs"])) for one in report["points"]] == [
        ("add", 2),
        ("delta", 2),
    ]
    text = (tmp_path / "report.html").read_text()
    assert "Depth mixing" in text and "Gate β of every write" in text
    assert "Against forward and backward pass" in text and "kept, MiB" in text


def test_a_point_whose_runs_fail_is_measured_and_says_why(tmp_path):
    axes = {"model": ["mlp_nano"], "residual": ["add"]}
    found = compare_points(
        axes, data="digits", **HOW, train=2, out=tmp_path, overrides=[*RUNS, "optim.lr=1e30"]
    )
    assert found.rows[0].trained == []
    assert found.refused["mlp_nano"].startswith("measured, not trained: seed 0: ")
    run = read_run(tmp_path / "mlp_nano" / "seed-0")
    assert run.trouble[0].startswith("it failed: ")
