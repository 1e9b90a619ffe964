"""Rank true neighbours among all nodes at every evaluation of a model of nodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ...zoo.network import Network
from ...zoo.poincare_embedding import NodeEmbedding
from ..console import describe
from ..data import RelationFold
from ..errors import RunError
from ..reconstruction import reconstruction
from .base import Callback, callbacks

if TYPE_CHECKING:
    from ..loop import Trainer

__all__ = ["Reconstruction"]


@callbacks.register(name="reconstruction")
class Reconstruction(Callback):
    """Log `mean_rank` and `map` of the validation relations; end with `reconstruction.json`.

    They choose nothing: the best weights are those with the highest accuracy, the share of
    relations whose true neighbour lies nearer than all drawn negatives. At the end the best weights
    rank the test relations, into that file. Without `data.held_out` all folds hold the same
    relations, and both are the reconstruction of what was trained on, as in the paper.
    """

    def start(self, trainer: Trainer) -> None:
        """Refuse a model or data without nodes, before anything is trained."""
        if not isinstance(trainer.model, NodeEmbedding):
            raise RunError(
                "callbacks.reconstruction needs a model of nodes, such as "
                "model=poincare_embedding; leave it out"
            )

    def evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Add the two figures to the validation metrics."""
        metrics |= self._rank(trainer.evaluated, trainer.splits.validation)

    def end(self, trainer: Trainer, model: Network) -> None:
        """Rank the test relations by the best weights."""
        if trainer.world.leader:
            found = self._rank(model, trainer.splits.test)
            trainer.folder.write_text("reconstruction.json", json.dumps(found, indent=2) + "\n")
            trainer.console.say(f"test relations: {describe(found)}")

    def _rank(self, model: object, fold: object) -> dict[str, float]:
        assert isinstance(model, NodeEmbedding) and isinstance(fold, RelationFold)
        return reconstruction(model.distances, fold.relations, fold.known, fold.num_nodes)
