"""Runs that go on as something else; `test_moving.py` starts this on one process and on two.

What a process holds right after it has loaded a checkpoint goes into a file, as the next
checkpoint would have it.
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from archzoo.train import run as running
from archzoo.train import start
from archzoo.train.engine.checkpoint import load_run
from archzoo.train.engine.named_states import model_state, optimizer_state

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.train.small_runs import configure  # noqa: E402


def noting(trainer, path):
    """Load a checkpoint and write down what is now there."""
    damaged = load_run(trainer, path)
    held = {
        "model": model_state(trainer.model),
        "optimizer": optimizer_state(trainer.model, trainer.optimizer),
        "callbacks": [callback.state_dict() for callback in trainer.callbacks],
    }
    if trainer.world.leader:
        torch.save(held, trainer.folder.path / "held.pt")
    return damaged


def main(jobs: list[tuple[str, list[str]]]) -> None:
    """Do runs into folders, each with its overrides."""
    for folder, overrides in jobs:
        with patch.object(start, "load_run", noting):
            running.run(configure(*overrides, folder=Path(folder)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
