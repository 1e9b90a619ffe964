"""A benchmark's result file: what is kept, and that less never replaces more."""

import json
import sys

import pytest


@pytest.fixture
def harness(script, monkeypatch, tmp_path):
    """The harness with folders of its own."""
    harness = script("harness")
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "UNTRACKED", tmp_path / "build")
    return harness


def measured(harness, monkeypatch, options, figures):
    """Run a benchmark whose bars have these names and figures, all at most 1."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    bars = [harness.Bar(what, figure, 1.0) for what, figure in figures.items()]
    harness.main("law", lambda quick: ([{"case": what} for what in figures], bars))


def kept(harness):
    return json.loads((harness.RESULTS / "law.json").read_text())["bars"]


def test_only_keep_writes_the_tracked_file(harness, monkeypatch):
    measured(harness, monkeypatch, [], {"ours": 0.5})
    assert not harness.RESULTS.exists() and (harness.UNTRACKED / "law.json").is_file()
    measured(harness, monkeypatch, ["--keep"], {"ours": 0.5})
    assert [bar["figure"] for bar in kept(harness)] == [0.5]


def test_a_run_that_judges_less_does_not_replace_the_kept_file(harness, monkeypatch):
    measured(harness, monkeypatch, ["--keep"], {"ours": 0.5, "peer, 0.3 of 4": 0.6})
    with pytest.raises(SystemExit, match=r"not kept, because 1 bars .* 'peer, 0.3 of 4'"):
        measured(harness, monkeypatch, ["--keep"], {"ours": 0.1})
    assert [bar["figure"] for bar in kept(harness)] == [0.5, 0.6]
    assert json.loads((harness.UNTRACKED / "law.json").read_text())["bars"][0]["figure"] == 0.1
    measured(harness, monkeypatch, ["--keep"], {"ours": 0.2, "peer, 0.7 of 5": 0.3, "new": 0.4})
    assert [bar["figure"] for bar in kept(harness)] == [0.2, 0.3, 0.4]


def test_a_missed_bar_ends_with_its_line_only_under_check(harness, monkeypatch, capsys):
    measured(harness, monkeypatch, [], {"slow": 2.0, "fast": 0.1})
    with pytest.raises(SystemExit):
        measured(harness, monkeypatch, ["--check"], {"slow": 2.0, "fast": 0.1})
    assert capsys.readouterr().out.splitlines()[-1] == "MISSED slow: 2 <= 1"
