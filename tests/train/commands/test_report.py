"""Reports are written of what runs left: a page, or a picture of their curves."""

import json

import pytest
from archzoo.train.commands.__main__ import main
from archzoo.train.commands.report import report
from archzoo.train.errors import RunError, UsageError

from ..report.left_runs import leave


def test_a_page_is_written_of_a_folder_of_runs(tmp_path, capsys):
    for seed in range(2):
        leave(tmp_path / "sweep" / f"{seed}-seed={seed}", seed=seed)
    leave(tmp_path / "sweep" / "2-seed=2", seed=2, ended=False)
    out = tmp_path / "new" / "report.html"
    main(["report", str(tmp_path / "sweep"), f"out={out}", "inside=false"])
    told = capsys.readouterr().out
    assert told == f"{out}: 3 runs of 1 point; not whole, for a reason on the page: 1\n"
    assert out.read_text().startswith("<!doctype html>")


def test_what_was_found_is_answered_as_json(tmp_path, capsys):
    path = leave(tmp_path / "a")
    main(["report", str(path), f"out={tmp_path / 'page.html'}", "inside=false", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == [{"run": str(path), "trouble": []}]
    assert found["points"][0]["test"] == {"mean": 0.7, "deviation": 0.0, "count": 1}


def test_a_picture_is_drawn_of_the_curves(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [str(leave(tmp_path / name)) for name in ("one", "two")]
    answer = report(*runs, out=str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert answer.found["runs"] == runs


@pytest.mark.parametrize("out", ["page.html", "curves.png"])
def test_a_folder_without_a_run_is_named(tmp_path, out):
    pytest.importorskip("matplotlib")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="empty holds no"):
        report(str(tmp_path / "empty"), out=str(tmp_path / out))


def test_no_run_is_wrong_usage():
    with pytest.raises(UsageError, match="name run folders"):
        report()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    leave(tmp_path / "a")
    (tmp_path / "page.html").mkdir()
    with pytest.raises(RunError, match="could not write out="):
        report(str(tmp_path / "a"), out=str(tmp_path / "page.html"), inside=False)
