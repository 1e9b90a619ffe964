"""A callback sees a run through a narrow protocol, and the loop does the rest."""

import ast
from pathlib import Path

import pytest
import torch
from archzoo.train.callbacks import Callback, TrainingRun, callbacks
from archzoo.zoo import create_model

from ..small_runs import train

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "train" / "callbacks").glob("*.py"))
MEMBERS = {name for name in vars(TrainingRun) if not name.startswith("_")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_callback_uses_what_the_protocol_names_and_writes_nothing_into_the_run(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("run", "self.run"):
            assert node.attr in MEMBERS, f"{path.name}:{node.lineno} uses run.{node.attr}"
            assert isinstance(node.ctx, ast.Load), f"{path.name}:{node.lineno} writes into the run"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_callback_imports_the_loop(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert "loop" not in (node.module or "").split("."), f"{path.name}:{node.lineno}"


class Probe(Callback):
    """Uses every member of the protocol, and has a copy of the model evaluated."""

    seen: list

    def start(self, run):
        self.seen = [("start", run.step)]
        run.say("before the bar")
        assert run.optimizer.param_groups and run.splits.num_classes == 10
        assert run.world.leader and run.config.steps == run.total_steps == 12

    def evaluated(self, run, model):
        assert model is run.model
        self.copy = create_model("mlp_nano", in_features=64)
        return self.copy

    def step(self, run):
        self.seen.append(("step", run.step))
        with run.autocast():
            run.model(torch.zeros(1, 64))

    def evaluate(self, run, metrics):
        assert run.evaluated is self.copy
        metrics["found"] = 0.5
        run.log("probe", {"value": 2.0})
        run.follow_sizes()

    def end(self, run, model):
        assert run.read_text("note.txt") is None
        run.write_text("note.txt", "whole")
        assert run.read_text("note.txt") == "whole"
        assert run.best_step in (6, 12)


@pytest.mark.long
def test_a_run_does_all_that_the_protocol_promises(tmp_path, monkeypatch, capsys):
    probe = Probe()
    entries = {**callbacks._entries}
    monkeypatch.setattr(callbacks, "_entries", entries)
    callbacks.register(name="probe")(lambda: probe)
    train(tmp_path, "+callbacks.probe={}")
    assert probe.seen == [("start", 0), *(("step", n) for n in range(1, 13))]
    assert "before the bar\n" in capsys.readouterr().out
    logged = (tmp_path / "metrics.csv").read_text()
    assert "probe" in logged and "found" in logged
    final, kept = create_model(f"local-dir:{tmp_path}").state_dict(), probe.copy.state_dict()
    assert all(torch.equal(final[key], kept[key]) for key in kept)
