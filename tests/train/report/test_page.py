"""The page of a report is whole by itself, and names every run."""

import html
import json

import pytest
from archzoo.train.report.page import write_report

from .left_runs import leave
from .test_markup import HOSTILE, Reader

LOADING = {"script", "link", "iframe", "img", "object", "embed", "base", "form"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of two points with three seeds, one run that goes on and one that failed."""
    folder = tmp_path_factory.mktemp("runs")
    for i, residual in enumerate(("add", "attnres")):
        for seed in range(3):
            name = folder / f"{residual}-{seed}"
            leave(name, residual=residual, seed=seed, shift=0.05 * i + 0.01 * seed)
            costs = {"parameters": 1000 + i, "macs": 5, "forward_ms": {"median": 2.0 + i}}
            (name / "costs.json").write_text(json.dumps(costs))
    leave(folder / "more", residual="delta", ended=False)
    (folder / "failed").mkdir()
    (folder / "failed" / "error.txt").write_text("optim.lr must be above 0\n")
    certificate = {
        "norm": "l2", "clean_accuracy": 0.75, "radius": [0.1, 0.2, "inf", 0.3],
        "correct": [True, True, True, False], "certified_accuracy": [{"eps": 0.1, "accuracy": 0.5}],
        "attacked_accuracy": [{"eps": 0.1, "accuracy": 0.6}],
    }  # fmt: skip
    (folder / "add-0" / "certificate.json").write_text(json.dumps(certificate))
    rows = [
        {"step": s, "ranks": {"a": 8 - s, "b": 4}, "spectra": {"a": [3.0, 1.0, 0.0]}}
        for s in (1, 2)
    ]
    (folder / "add-0" / "ranks.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = write_report([folder], folder / "report.html", inside=False)
    return folder, found, (folder / "report.html").read_text()


def test_the_page_needs_nothing_beside_itself(page):
    read = Reader(page[2])
    assert LOADING.isdisjoint(read.tags)
    assert "default-src 'none'" in html.unescape(page[2])
    assert "http" not in page[2].replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert {name[:2] == "on" for name in read.given} == {False}


def test_every_run_is_on_the_page_with_its_reason_where_it_is_not_whole(page):
    folder, found, text = page
    said = Reader(text).said
    for run in found["runs"]:
        assert run["run"] in said
        assert all(reason in said for reason in run["trouble"])
    assert "it failed: optim.lr must be above 0" in said
    assert "it has not ended; the last step it logged is 30" in said


def test_the_table_has_means_with_deviations_and_the_best_comes_first(page):
    said = Reader(page[2]).said
    assert "76.00 ± 1.00 %" in said and "71.00 ± 1.00 %" in said
    assert said.index("76.00 ± 1.00 %") < said.index("71.00 ± 1.00 %")
    tested = {point["point"]: point["test"] for point in page[1]["points"]}
    assert tested["attnres"]["mean"] == pytest.approx(0.76, abs=1e-12)
    assert tested["delta"] is None


@pytest.mark.parametrize(
    "section",
    [
        "Against parameters", "Against forward pass", "Validation", "Training loss",
        "Certified accuracy (l2)", "Accuracy under attack (l2)", "add: ranks",
        "add: spectrum of a", "archzoo train model.residual=add seed=0", "2.14.1", "batch_size: 64",
    ],
)  # fmt: skip
def test_what_the_runs_have_is_shown(page, section):
    assert section in Reader(page[2]).said


def test_whatever_a_callback_logged_has_a_chart_and_words_have_none(tmp_path):
    path = leave(tmp_path / "a")
    with open(path / "metrics.csv", "a") as file:
        file.write("30,geometry,0.5,,,\n30,notes,word,,,\n30,test,0.5,,0.7,\n")
    write_report([path], tmp_path / "page.html", inside=False)
    said = Reader((tmp_path / "page.html").read_text()).said
    assert "Further metrics" in said and "geometry: loss" in said
    assert "notes:" not in said and "test: accuracy" not in said


def test_of_texts_fewer_bits_per_byte_are_better(tmp_path):
    for residual, shift in (("add", 0.0), ("attnres", 0.1)):
        path = leave(tmp_path / residual, residual=residual, shift=shift, bits=True)
        (path / "costs.json").write_text(json.dumps({"parameters": 5 if shift else 4}))
    found = write_report([tmp_path], tmp_path / "page.html", inside=False)
    assert [point["metric"] for point in found["points"]] == ["bits_per_byte"] * 2
    said = Reader((tmp_path / "page.html").read_text()).said
    assert said.index("2.2000") < said.index("2.3000")
    assert "bits per byte (less is better)" in said and "accuracy, %" not in said


def test_what_an_adapter_trains_and_what_the_optimiser_keeps_of_it_is_told(tmp_path):
    for residual, trained in (("add", 4321), ("attnres", 87)):
        path = leave(tmp_path / residual, residual=residual)
        result = json.loads((path / "result.json").read_text())
        result["adapter"] = {"trained": trained, "optimizer_bytes": trained * 2**20, "step_ms": 1.5}
        (path / "result.json").write_text(json.dumps(result))
    write_report([tmp_path], tmp_path / "page.html", inside=False)
    said = Reader((tmp_path / "page.html").read_text()).said
    assert "optimiser, MiB" in said and "trained numbers" in said
    assert said.count("87") >= 2  # one in each of the two columns


@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_nothing_that_a_run_says_becomes_markup(tmp_path, text):
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    leave(plain / "a", residual="add")
    leave(plain / "b", residual="other")
    leave(hostile / "a", residual="add")
    leave(hostile / "b", residual=text, ended=False)
    (hostile / "b" / "error.txt").write_text(text)
    environment = {"command": [text], "commit": text, "versions": {text: text}}
    (hostile / "b" / "environment.json").write_text(json.dumps(environment))
    tags = []
    for folder in (plain, hostile):
        write_report([folder], folder / "page.html", inside=False)
        read = Reader((folder / "page.html").read_text())
        tags.append(set(read.tags))
        assert not any(name.startswith("on") for name in read.given)
    assert tags[1] <= tags[0] | {"li", "ul"}
    assert text in read.said


def test_a_page_of_broken_runs_alone_is_written(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "error.txt").write_text("no\n")
    found = write_report([tmp_path], tmp_path / "page.html")
    assert found["points"] == []
    assert "it failed: no" in (tmp_path / "page.html").read_text()


def test_a_page_takes_the_place_of_the_old_one_whole_or_not_at_all(tmp_path):
    leave(tmp_path / "a")
    out = tmp_path / "page.html"
    out.write_text("old")
    with pytest.raises(ValueError, match="holds no run"):
        (tmp_path / "empty").mkdir()
        write_report([tmp_path / "a", tmp_path / "empty"], out)
    assert out.read_text() == "old"
