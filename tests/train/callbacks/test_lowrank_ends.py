"""How a low-rank run ends: with its budget met or said to be missed, and with one word on NaN."""

import json

import pytest
import torch
from archzoo.layers.lowrank import Maestro
from archzoo.train.engine import loop
from archzoo.train.errors import RunError
from archzoo.zoo import create_model
from archzoo.zoo.axes.lowrank import methods

from ...tiers import tiered
from ..small_runs import train
from .test_lowrank_training import chosen

BUDGET = ["lowrank=maestro", "lowrank.budget=0.5"]
SHRINKING = ["lowrank.shrink_every=2", "lowrank.threshold=0.9", "lowrank.group_lasso=0.02"]


def sizes(folder):
    return json.loads((folder / "result.json").read_text())["lowrank"]


def test_a_budget_that_is_missed_is_said_before_and_after_the_run_and_in_its_result(
    tmp_path, capsys
):
    train(tmp_path, *BUDGET)
    before, missed = (line for line in capsys.readouterr().out.splitlines() if "budget=" in line)
    assert before.startswith("lowrank: budget=0.5 needs a removal, which shrink_every=500 brings")
    assert "of 12; lower shrink_every" in before
    found = sizes(tmp_path)
    assert found["budget"] == 0.5 and found["share"] == 1.0 and found["budget_met"] is False
    saved, dense = create_model(f"local-dir:{tmp_path}"), create_model("mlp_nano")
    assert found["parameters"] == sum(p.numel() for p in saved.parameters())
    assert found["dense_parameters"] == sum(p.numel() for p in dense.parameters())
    assert found["parameters"] > found["dense_parameters"]
    assert missed.startswith("lowrank.budget=0.5 is not met")
    assert f"{found['parameters']:,} parameters as stored" in missed


def test_a_budget_that_is_met_needs_no_word(tmp_path, capsys):
    train(tmp_path, *BUDGET, *SHRINKING, "lowrank.threshold=5", "lowrank.budget=0.9")
    found = sizes(tmp_path)
    assert found["budget_met"] is True and found["share"] <= 0.9
    assert "budget=" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "steps", "reached"),
    [
        ({"shrink_every": 5}, 4, False),
        ({"shrink_every": 5}, 5, True),
        ({"shrink_every": 5, "warmup": 5}, 9, False),
        ({"shrink_every": 5, "warmup": 5}, 10, True),
        ({"shrink_every": 5, "warmup": 9}, 10, True),
        ({"shrink_every": 5, "warmup": 10}, 10, False),
    ],
    ids=str,
)
def test_a_budget_is_out_of_reach_where_no_removal_is_due_after_the_warm_up(
    settings, steps, reached
):
    assert bool(Maestro(budget=0.5, **settings).out_of_reach(steps)) is not reached
    assert not Maestro(**settings).out_of_reach(steps)


@pytest.mark.parametrize("method", methods.names())
def test_every_run_says_what_its_model_holds_and_what_a_dense_one_would(method, tmp_path):
    train(tmp_path, *chosen(method), "trainer.steps=2", "trainer.evaluate_every=2")
    dense = sum(p.numel() for p in create_model("mlp_nano").parameters())
    saved = sum(p.numel() for p in create_model(f"local-dir:{tmp_path}").parameters())
    assert sizes(tmp_path) == {"parameters": saved, "dense_parameters": dense}


@pytest.mark.filterwarnings("ignore:Encountered `nan` values")  # torchmetrics, before the loop
@pytest.mark.parametrize("value", tiered([torch.nan, torch.inf], [torch.inf]))
@pytest.mark.parametrize("method", methods.names())
def test_weights_that_a_step_ruins_end_the_run_with_the_word_of_the_loop(
    method, value, tmp_path, monkeypatch
):
    step = loop.Trainer._train_step

    def ruined(self, data):
        loss = step(self, data)
        if self.step == 6:  # where the ranks and the spectra are logged
            for parameter in self.model.parameters():
                parameter.detach().fill_(value)
        return loss

    monkeypatch.setattr(loop.Trainer, "_train_step", ruined)
    with pytest.raises(RunError, match=r"the validation loss is nan at step 6.*Lower optim.lr"):
        train(tmp_path, *chosen(method), "lowrank.seed=1")
