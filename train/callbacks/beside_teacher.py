"""What every `distill=` has in common: a frozen teacher that sees the batches of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...zoo.network import Network
from ...zoo.registry import Registry
from ...zoo.share.content_digest import content_digest
from ..config import TrainerConfig
from ..errors import RunError
from .hooks import Callback, TrainingRun
from .watched_pass import WatchedPass

__all__ = ["BesideTeacher", "distillations"]

distillations = Registry("distillation", given=("network",))


class BesideTeacher(Callback):
    """A frozen teacher, its passes and those of the model, and the terms of the last step.

    At each evaluation the terms are logged without their factors, as a split of their own,
    `distill`.

    Args:
        network: The teacher, frozen and in evaluation; None while settings are only checked.
        teacher: Where it is from.

    Raises:
        ValueError: no teacher.
    """

    def __init__(self, network: Network | None, teacher: str | None) -> None:
        """Keep the teacher."""
        if teacher is None:
            raise ValueError(
                "distill.teacher is missing: name a run, the folder of a saved model, "
                "hf-hub:OWNER/NAME or pretrained:NAME"
            )
        self.network, self.teacher, self.weights, self.recipe = network, teacher, "", ""
        self.mine, self.theirs = WatchedPass(), WatchedPass()
        self.terms: dict[str, Tensor] = {}

    def check_trainer(self, config: TrainerConfig) -> None:
        """Refuse a run whose passes nobody can follow.

        Raises:
            ValueError: naming the setting and another.
        """
        if config.compile is True:
            raise ValueError(
                "trainer.compile=true compiles the features into one graph, where distill= cannot "
                "read them; use trainer.compile=blocks"
            )
        if config.parallel == "fsdp":
            raise ValueError(
                "trainer.parallel=fsdp shards the weights that distill= reads whole; use "
                "trainer.parallel=ddp"
            )

    def watch(self, run: TrainingRun, features: bool) -> None:
        """Follow both models from now on, and remember which teacher it is."""
        assert self.network is not None
        self.weights = content_digest(self.network.state_dict())
        # Options without weights, such as an epsilon, decide too what the teacher says.
        self.recipe = json.dumps(self.network.recipe, sort_keys=True, default=str)
        model = run.model
        self.mine.watch(model, features, lambda: model.training and torch.is_grad_enabled())
        self.theirs.watch(self.network, features, lambda: True)

    def ask_teacher(self, run: TrainingRun) -> None:
        """Run the teacher on the batch that the model has just seen."""
        assert self.network is not None and self.mine.inputs is not None
        with torch.no_grad(), run.autocast():
            self.network(self.mine.inputs)

    def keep_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Keep the terms of this step for the log, and let go of both passes."""
        self.mine.forget()
        self.theirs.forget()
        self.terms = {name: term.detach() for name, term in terms.items()}

    def evaluate(self, run: TrainingRun, metrics: dict[str, float]) -> None:
        """Log the terms of the last step."""
        if self.terms:
            means = {name: float(run.world.mean(term)) for name, term in self.terms.items()}
            run.log("distill", means)

    def result(self, run: TrainingRun, model: Network) -> dict[str, Any]:
        """Return which teacher it was."""
        return {"distill": {"teacher": self.teacher, "weights": self.weights}}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse to go on beside another teacher; earlier versions kept no recipe of theirs."""
        if state.get("weights", self.weights) != self.weights:
            raise RunError(
                f"distill.teacher={self.teacher} holds other weights than when the run began; "
                f"give it back, or start another run"
            )
        if state.get("recipe", self.recipe) != self.recipe:
            raise RunError(
                f"distill.teacher={self.teacher} is built as {self.recipe}, and was as "
                f"{state['recipe']} when the run began; give it back, or start another run"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher's recipe and a digest of its weights, which no checkpoint holds."""
        return {"weights": self.weights, "recipe": self.recipe}
