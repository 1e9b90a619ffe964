"""Runs of one config but the seed are a point, which what differs names."""

import statistics

import pytest
from archzoo.train.report.run_groups import group_runs, summary
from archzoo.train.report.run_record import find_runs, read_run

from .left_runs import leave


def groups(*folders):
    return group_runs([read_run(path) for path in find_runs(list(folders))])


def test_seeds_are_grouped_and_points_named_by_what_differs(tmp_path):
    for residual in ("add", "attnres"):
        for seed in range(3):
            leave(tmp_path / f"{residual}{seed}", residual=residual, seed=seed, shift=0.01 * seed)
    found = groups(tmp_path)
    assert [(one.label, len(one.runs)) for one in found] == [("add", 3), ("attnres", 3)]
    tested = found[0].tested()
    values = [0.7, 0.71, 0.72]
    assert tested.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert tested.deviation == pytest.approx(statistics.stdev(values), abs=1e-12)


def test_a_label_holds_every_key_that_differs_and_options_of_a_mechanism(tmp_path):
    leave(tmp_path / "a", residual="add", lr=0.01)
    leave(tmp_path / "b", residual={"name": "delta", "value_channels": 4}, lr=0.02)
    assert [one.label for one in groups(tmp_path)] == [
        "lr=0.01 · add",
        "lr=0.02 · delta(value_channels=4)",
    ]


def test_points_of_several_models_are_named_by_what_differs_within_each(tmp_path):
    leave(tmp_path / "a", model="mlp_nano", lr=0.1)
    leave(tmp_path / "b", residual="add", lr=0.2)
    leave(tmp_path / "c", residual="delta", lr=0.2)
    assert [one.label for one in groups(tmp_path)] == [
        "mlp_nano", "vit_nano · add", "vit_nano · delta",
    ]  # fmt: skip


def test_runs_that_differ_in_nothing_are_one_point_under_its_name(tmp_path):
    leave(tmp_path / "a", seed=0)
    leave(tmp_path / "b", seed=1)
    assert [(one.label, len(one.runs)) for one in groups(tmp_path)] == [("vit_nano-digits", 2)]


def test_what_leaves_the_result_as_it_is_makes_no_other_point(tmp_path):
    for name, told in (("a", "csv: {}"), ("b", "tensorboard: {}")):
        config = leave(tmp_path / name) / "config.yaml"
        config.write_text(f"{config.read_text()}resume: {name}\nlogger:\n  {told}\n")
    assert [len(one.runs) for one in groups(tmp_path)] == [2]


def test_a_run_without_a_teacher_is_the_point_of_runs_from_before_there_were_any(tmp_path):
    for name, told in (
        ("old", ""),
        ("none", "distill: null\n"),
        ("pela", "distill: {name: pela}\n"),
    ):
        config = leave(tmp_path / name) / "config.yaml"
        config.write_text(config.read_text() + told)
    found = {one.label: len(one.runs) for one in groups(tmp_path)}
    assert found == {"no teacher": 2, "pela": 1}


def test_a_step_that_one_run_lacks_is_the_mean_of_the_others(tmp_path):
    leave(tmp_path / "a", seed=0)
    short = leave(tmp_path / "b", seed=1, shift=0.2, ended=False)
    lines = (short / "metrics.csv").read_text().splitlines()
    (short / "metrics.csv").write_text("\n".join(lines[:-1]) + "\n")
    curve = groups(tmp_path)[0].curve("validation", "accuracy")
    assert {step: (round(one.mean, 12), one.count) for step, one in curve.items()} == {
        10: (0.3, 2),
        20: (0.6, 2),
        30: (0.7, 1),
    }


def test_the_deviation_of_one_run_is_zero_and_of_none_there_is_nothing():
    assert summary([0.5]).deviation == 0.0
    assert summary([]) is None
