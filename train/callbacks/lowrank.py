"""Let a low-rank method act around the steps of the trainer's optimiser, and log the ranks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...layers.lowrank import Controller
from ..errors import RunError
from ..world import parallelize
from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer

__all__ = ["LowRankTraining", "ranks_of"]

RANKS = "ranks.jsonl"


def ranks_of(controller: Controller) -> dict[str, int]:
    """Return the rank of every target by name; one whose method knows no ranks is left out."""
    known = controller.state.get("ranks", {})
    ranks = {}
    for name, target in controller.targets.items():
        rank = getattr(target.structure, "rank", known.get(name))
        if rank is not None:
            ranks[name] = int(rank)
    return ranks


class LowRankTraining(Callback):
    """Carries the method of `model.lowrank` through a run; `lowrank=` adds it, before all others.

    At each evaluation it logs `parameters` and `trained`, the numbers that the model stores and
    that the optimiser changes, and `mean_rank` over the targets, as a split of their own,
    `lowrank`; `ranks.jsonl` in the run's folder has a line with the rank of every target. A method
    that needs the length of the run has a setting `total_steps`, filled in where it is None.

    A change of a weight's size makes DDP and `torch.compile` begin anew.
    """

    def __init__(self) -> None:
        """Nothing is known before the run."""
        self.controller: Controller | None = None
        self.rows: list[dict[str, Any]] = []
        self.resized = 0

    def start(self, trainer: Trainer) -> None:
        """Attach the method to the optimiser."""
        controller = trainer.model.lowrank
        assert controller is not None
        method: Any = controller.method
        if getattr(method, "total_steps", 0) is None:
            method.total_steps = trainer.total_steps
        try:
            controller.attach(trainer.optimizer)
        except ValueError as error:
            raise RunError(str(error)) from error
        self.trainer, self.controller = trainer, controller
        self._follow_sizes()

    def loss(self, trainer: Trainer, loss: Tensor) -> Tensor:
        """Add the method's penalty."""
        assert self.controller is not None
        penalty = self.controller.penalty()
        return loss if penalty is None else loss + penalty.to(loss.dtype)

    def step(self, trainer: Trainer) -> None:
        """Follow changes of sizes."""
        self._follow_sizes()

    def evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Log sizes and ranks; under FSDP a parameter counts whole."""
        assert self.controller is not None
        ranks = ranks_of(self.controller)
        parameters = list(trainer.model.parameters())
        values: dict[str, float] = {
            "parameters": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        }
        if ranks:
            values["mean_rank"] = sum(ranks.values()) / len(ranks)
        for logger in trainer.loggers:
            logger.log(trainer.step, "lowrank", values)
        self.rows.append({"step": trainer.step, **values, "ranks": ranks})
        lines = (json.dumps(row) + "\n" for row in self.rows)
        trainer.folder.write_text(RANKS, "".join(lines))

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse the state of another method, or of other settings or targets."""
        assert self.controller is not None
        try:
            self.controller.check_state_dict(state["controller"])
        except ValueError as error:
            raise RunError(str(error)) from error

    def state_dict(self) -> dict[str, Any]:
        """Return the controller's state and the ranks so far."""
        assert self.controller is not None
        return {"controller": self.controller.state_dict(), "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the controller was."""
        assert self.controller is not None
        self.controller.load_state_dict(state["controller"])
        self.rows = state["rows"]
        self._follow_sizes()

    def _follow_sizes(self) -> None:
        assert self.controller is not None
        if self.controller.resized == self.resized:
            return
        self.resized = self.controller.resized
        trainer = self.trainer
        if trainer.wrapped is not trainer.model:  # DDP keeps the sizes that it began with
            trainer.wrapped = parallelize(trainer.model, trainer.world, trainer.config.parallel)
        if trainer.config.compile:
            torch.compiler.reset()  # else old sizes count towards the limit of recompilations
