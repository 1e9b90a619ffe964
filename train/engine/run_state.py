"""A run in progress: its parts, how far it is, and what its callbacks may ask of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...zoo.network import Network
from ..callbacks import Callback
from ..config import TrainerConfig
from ..errors import RunError
from .console import say
from .half_precision import autocast
from .loggers import Logger
from .process import World, parallelize
from .saved.best_weights import BestWeights
from .saved.run_folder import RunFolder

__all__ = ["RunState"]


class RunState:
    """All that a checkpoint reads of a run and restores, and all that a callback sees of it.

    Args:
        model: Made by `create_model`, on its device.
        optimizer: Of the model's parameters.
        config: The loop's settings.
        callbacks: Called in order at every hook.
        loggers: Those of the leading process.
        folder: Where everything goes.
        world: This process among the others.
        wrapped: The model as it is called in training: itself, or its DDP.

    Attributes:
        evaluated: The model that is evaluated and kept: the trained one, or one of a callback.
        scaler: Of the loss, which does nothing but for fp16.
        step: Optimiser steps done.
        reported: Whether this step has been logged and evaluated where that is due.
        best: Validation metrics of the best weights so far.
        best_step: The step whose weights those are.
        window: Sum and number of this process's losses since the last log line.
    """

    def __init__(
        self,
        model: Network,
        optimizer: torch.optim.Optimizer,
        config: TrainerConfig,
        callbacks: Sequence[Callback],
        loggers: Sequence[Logger],
        folder: RunFolder,
        world: World,
        wrapped: nn.Module,
    ) -> None:
        """Stand before the first step."""
        self.model = self.evaluated = model
        self.wrapped, self.optimizer, self.config = wrapped, optimizer, config
        self.callbacks, self.loggers = callbacks, loggers
        self.folder, self.world = folder, world
        self.best_weights = BestWeights(folder)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.amp == "fp16")
        self.step = 0
        self.reported = True
        self.best: dict[str, float] = {}
        self.best_step = 0
        self.window = [torch.zeros((), device=world.device), 0]

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass."""
        return autocast(self.world.device.type, self.config.amp)

    def log(self, split: str, metrics: Mapping[str, float]) -> None:
        """Give metrics of this step to every logger.

        Raises:
            RunError: the disk refused.
        """
        for logger in self.loggers:
            self.folder.guard(lambda each=logger: each.log(self.step, split, metrics))

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one, on the leading process."""
        if self.world.leader:
            say(text)

    def read_text(self, name: str) -> str | None:
        """The text of a small file of the run's folder, or None where there is none."""
        path = self.folder.path / name
        return path.read_text() if path.is_file() else None

    def write_text(self, name: str, text: str) -> None:
        """Write a small file of the run's folder, whole or not at all, on the leading process.

        Raises:
            RunError: the disk refused.
        """
        self.folder.write_text(name, text)

    def write_file(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file of the run's folder by a function that writes atomically, on the leader.

        Raises:
            RunError: the disk refused.
        """
        self.folder.guard(lambda: write(self.folder.path / name))

    def follow_sizes(self) -> None:
        """Begin anew what remembers the sizes of weights: DDP's buckets and compiled code."""
        if self.wrapped is not self.model:
            self.wrapped = parallelize(self.model, self.world, self.config.parallel)
        if self.config.compile:
            torch.compiler.reset()  # else old sizes count towards the limit of recompilations

    def refuse_nan(self, loss: float, *, validation: bool = False) -> None:
        """End a run whose loss, that of training or of validation, is not finite.

        Raises:
            RunError: the loss is infinite or no number.
        """
        if math.isfinite(loss):
            return
        name = "validation loss" if validation else "loss"
        more = "" if validation else " or set trainer.clip_grad=1"
        rate = self.optimizer.param_groups[0]["initial_lr"]
        raise RunError(
            f"the {name} is {loss} at step {self.step}; nothing saved before is lost. "
            f"Lower optim.lr={rate:g}{more}"
        )
