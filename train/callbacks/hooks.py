"""What a callback is called for, and the little that it may see and do of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...zoo.network import Network
from ...zoo.registry import Registry
from ..config import TrainerConfig
from ..data import Splits
from ..engine.process import World

__all__ = ["Callback", "TrainingRun", "callbacks"]

callbacks = Registry("callback")


class TrainingRun(Protocol):
    """What a callback may read of a run, and what it may ask of it."""

    @property
    def model(self) -> Network:
        """The model that is trained."""
        ...

    @property
    def evaluated(self) -> Network:
        """The model that is evaluated and kept."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the model's parameters."""
        ...

    @property
    def splits(self) -> Splits:
        """The folds of the data."""
        ...

    @property
    def config(self) -> TrainerConfig:
        """The settings of the loop."""
        ...

    @property
    def world(self) -> World:
        """This process among the others, and its device."""
        ...

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        ...

    @property
    def best_step(self) -> int:
        """The step whose weights are the best so far."""
        ...

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        ...

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass."""
        ...

    def log(self, split: str, metrics: Mapping[str, float]) -> None:
        """Give metrics of this step to every logger; all processes call it."""
        ...

    def say(self, text: str) -> None:
        """Print a line, on the leading process."""
        ...

    def read_text(self, name: str) -> str | None:
        """The text of a small file of the run's folder, or None where there is none."""
        ...

    def write_text(self, name: str, text: str) -> None:
        """Write a small file of the run's folder, whole or not at all, on the leading process."""
        ...

    def write_file(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file of the run's folder by a function that writes atomically, on the leader."""
        ...

    def follow_sizes(self) -> None:
        """Begin anew what remembers the sizes of weights, after some of them changed."""
        ...


class Callback:
    """Does nothing; a subclass overrides the hooks it needs.

    A callback with state of its own returns it from `state_dict`, as tensors and plain values, so
    that a resumed run equals one that never stopped.
    """

    def start(self, run: TrainingRun) -> None:
        """Before the first step, and before a checkpoint is loaded."""

    def evaluated(self, run: TrainingRun, model: Network) -> Network:
        """Return the model to evaluate and keep in the place of one; called once, after `start`."""
        return model

    def logits(self, run: TrainingRun, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits whose cross-entropy is trained on; targets are indices or shares."""
        return logits

    def loss(self, run: TrainingRun, loss: Tensor) -> Tensor:
        """Return the loss to differentiate, for a penalty on the weights."""
        return loss

    def step(self, run: TrainingRun) -> None:
        """After an optimiser step; `run.step` counts it already."""

    def evaluate(self, run: TrainingRun, metrics: dict[str, float]) -> None:
        """After an evaluation; may add metrics to log."""

    def end(self, run: TrainingRun, model: Network) -> None:
        """After the last step, with the best model rebuilt from its file."""

    def result(self, run: TrainingRun, model: Network) -> dict[str, Any]:
        """Return what the result file says beside the metrics, of the best model; after `end`."""
        return {}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse a state of other settings, before anything of a checkpoint is loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
