"""A run is read as far as it goes; what is broken is told and not dropped."""

import pytest
from archzoo.train.report.page import write_report
from archzoo.train.report.run_record import find_runs, read_run

from .left_runs import leave

DAMAGES = {
    "config.yaml": "config.yaml is damaged",
    "metrics.csv": "metrics.csv is damaged",
    "result.json": "result.json is damaged",
    "environment.json": "environment.json is damaged",
}


def test_a_whole_run_has_no_trouble(tmp_path):
    run = read_run(leave(tmp_path / "run"))
    assert run.trouble == []
    assert run.curve("validation", "accuracy") == {10: 0.2, 20: 0.5, 30: 0.7}


@pytest.mark.parametrize("content", ["{", "step,split\nx,y\n", "[1]"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_told_and_the_others_are_read(tmp_path, name, content):
    path = leave(tmp_path / "run")
    (path / name).write_text(content)
    run = read_run(path)
    if name == "metrics.csv" and content != "step,split\nx,y\n":
        assert run.rows == []  # a line without an end is one that a killed process began
        return
    assert len(run.trouble) == 1 and DAMAGES[name] in run.trouble[0]
    assert bool(run.rows) == (name != "metrics.csv")
    assert bool(run.config) == (name != "config.yaml")


STRANGE = {
    "certificate.json": [
        '{"radius": [1.0], "correct": []}', '{"radius": ["a"], "correct": [true]}',
        '{"certified_accuracy": [1]}', '{"attacked_accuracy": [{"eps": 1}]}', '"a"',
    ],
    "robustness.json": [
        "{}", '{"attack": {}, "attacked": {"eps": 1}}', '{"attack": {}, "clean": "b"}',
    ],
    "costs.json": ['{"forward_ms": {}}', '{"macs": "many"}', '{"macs": true}', '{"macs": NaN}'],
    "ranks.jsonl": ['{"step": 1}', "3", '{"step": 1, "ranks": {"a": "b"}, "spectra": {}}', ""],
    "config.yaml": ["model: {name: a}", "model: {}\ndata: {name: a}\ntrainer: {}",
                    "model: {name: a}\ndata: {name: b}\ntrainer: {batch_size: many}"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(n, c) for n in STRANGE for c in STRANGE[n]])
def test_a_file_of_another_shape_is_told_before_a_chart_is_made_of_it(tmp_path, name, content):
    path = leave(tmp_path / "run")
    (path / name).write_text(content)
    assert [name in why for why in read_run(path).trouble] == [True]
    write_report([path], tmp_path / "page.html", inside=False)
    assert name in (tmp_path / "page.html").read_text()


def test_an_unfinished_run_says_how_far_it_came(tmp_path):
    run = read_run(leave(tmp_path / "run", ended=False))
    assert run.trouble == ["it has not ended; the last step it logged is 30"]
    assert run.rows


def test_a_failed_point_of_a_sweep_is_found_with_its_error(tmp_path):
    leave(tmp_path / "10-seed=0")
    (tmp_path / "9-optim.lr=-1").mkdir()
    (tmp_path / "9-optim.lr=-1" / "error.txt").write_text("optim.lr must be above 0, got -1.0\n")
    failed, whole = (read_run(path) for path in find_runs([tmp_path]))
    assert failed.trouble == ["it failed: optim.lr must be above 0, got -1.0"]
    assert whole.trouble == []


def test_a_folder_of_runs_stands_for_them_and_a_run_named_twice_is_one(tmp_path):
    paths = [leave(tmp_path / "deep" / str(n)) for n in (0, 2, 10)]
    assert find_runs([tmp_path, paths[1]]) == paths


def test_a_place_without_runs_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="holds no run; name a run folder"):
        find_runs([tmp_path])
    with pytest.raises(ValueError, match="nothing is no folder"):
        find_runs([tmp_path / "nothing"])
