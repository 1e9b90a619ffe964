"""The hooks of the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...zoo.network import Network
from ...zoo.registry import Registry

if TYPE_CHECKING:
    from ..loop import Trainer

__all__ = ["Callback", "callbacks"]

callbacks = Registry("callback")


class Callback:
    """Does nothing; a subclass overrides the hooks it needs.

    A callback with state of its own returns it from `state_dict`, as tensors and plain values, so
    that a resumed run equals one that never stopped.
    """

    def start(self, trainer: Trainer) -> None:
        """Before the first step, and before a checkpoint is loaded."""

    def logits(self, trainer: Trainer, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits whose cross-entropy is trained on; targets are indices or shares."""
        return logits

    def loss(self, trainer: Trainer, loss: Tensor) -> Tensor:
        """Return the loss to differentiate, for a penalty on the weights."""
        return loss

    def step(self, trainer: Trainer) -> None:
        """After an optimiser step; `trainer.step` counts it already."""

    def evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """After an evaluation; may add metrics to log."""

    def end(self, trainer: Trainer, model: Network) -> None:
        """After the last step, with the best model rebuilt from its file."""

    def result(self, trainer: Trainer, model: Network) -> dict[str, Any]:
        """Return what the result file says beside the metrics, of the best model; after `end`."""
        return {}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse a state of other settings, before anything of a checkpoint is loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
