"""Loggers keep every row, and forget only what will be done again."""

import sys
import types

import pytest
from archzoo.train.engine.loggers import loggers

ABOUT = {"name": "a run", "config": {"seed": 0}}


def test_a_new_metric_adds_a_column_and_loses_no_row(tmp_path):
    log = loggers.build("csv", tmp_path, ABOUT)
    log.log(1, "train", {"loss": 1.0})
    log.log(2, "validation", {"loss": 0.5, "accuracy": 0.25})
    assert log.rows() == [
        {"step": "1", "split": "train", "loss": "1.0", "accuracy": ""},
        {"step": "2", "split": "validation", "loss": "0.5", "accuracy": "0.25"},
    ]


def test_resuming_drops_the_rows_that_will_be_logged_again_only(tmp_path):
    log = loggers.build("csv", tmp_path, ABOUT)
    for step in range(1, 6):
        log.log(step, "train", {"loss": float(step)})
    again = loggers.build("csv", tmp_path, ABOUT)
    again.resume(4)
    again.log(4, "train", {"loss": 40.0})
    assert [row["loss"] for row in again.rows()] == ["1.0", "2.0", "3.0", "40.0"]


def test_tensorboard_holds_each_metric_under_its_split(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = loggers.build("tensorboard", tmp_path, ABOUT)
    log.log(3, "train", {"loss": 0.5})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = events.Scalars("train/loss")
    assert (event.step, event.value) == (3, 0.5)


def test_tensorboard_holds_what_was_logged_before_anything_is_closed(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = loggers.build("tensorboard", tmp_path, ABOUT)
    log.log(3, "train", {"loss": 0.5, "lr": 0.25})
    # What a killed process leaves.
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/lr")] == [0.25]
    log.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_the_config_and_every_metric(tmp_path, monkeypatch, name):
    calls = []
    fake = types.ModuleType(name)
    for verb in ("init", "log", "finish"):
        setattr(fake, verb, lambda *a, verb=verb, **k: calls.append((verb, a, k)))
    monkeypatch.setitem(sys.modules, name, fake)
    log = loggers.build(name, tmp_path, ABOUT, project="mine")
    log.log(3, "train", {"loss": 0.5})
    log.close()
    assert [call[0] for call in calls] == ["init", "log", "finish"]
    assert calls[0][2]["project"] == "mine"
    assert calls[0][2]["config"] == {"seed": 0}
    assert calls[1][1:] == (({"train/loss": 0.5},), {"step": 3})


def test_a_service_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match="logger.trackio: not installed; pip install trackio"):
        loggers.build("trackio", tmp_path, ABOUT)
