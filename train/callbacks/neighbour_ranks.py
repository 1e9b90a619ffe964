"""Rank true neighbours among all nodes at every evaluation of a model of nodes."""

from __future__ import annotations

import json
from typing import Any

from ...zoo.network import Network
from ..data import RelationFold
from ..engine.console import describe
from ..errors import RunError
from ..measures.reconstruction import reconstruction
from .hooks import Callback, TrainingRun, callbacks

__all__ = ["Reconstruction"]


@callbacks.register(name="reconstruction")
class Reconstruction(Callback):
    """Log `mean_rank` and `map` of the validation relations; end with `reconstruction.json`.

    They choose nothing: the best weights are those with the highest accuracy, the share of
    relations whose true neighbour lies nearer than all drawn negatives. At the end the best weights
    rank the test relations, into that file. Without `data.held_out` all folds hold the same
    relations, and both are the reconstruction of what was trained on, as in the paper.
    """

    def start(self, run: TrainingRun) -> None:
        """Refuse, before training, a model without distances or data without relations."""
        relations = isinstance(run.splits.validation, RelationFold)
        if not relations or not hasattr(run.model, "distances"):
            raise RunError(
                "callbacks.reconstruction needs a model of nodes, such as "
                "model=poincare_embedding, and relations such as data=tree; leave it out"
            )
        if not getattr(run.model, "has_distances", True):
            raise RunError(
                "callbacks.reconstruction ranks by distances, and this model decides otherwise; "
                "take model.decoder=distance, or leave it out"
            )

    def evaluate(self, run: TrainingRun, metrics: dict[str, float]) -> None:
        """Add the two figures to the validation metrics."""
        metrics |= self._rank(run.evaluated, run.splits.validation)

    def end(self, run: TrainingRun, model: Network) -> None:
        """Rank the test relations by the best weights."""
        if run.world.leader:
            found = self._rank(model, run.splits.test)
            run.write_text("reconstruction.json", json.dumps(found, indent=2) + "\n")
            run.say(f"test relations: {describe(found)}")

    def _rank(self, model: Any, fold: object) -> dict[str, float]:
        assert isinstance(fold, RelationFold)
        return reconstruction(model.distances, fold.relations, fold.known, fold.num_nodes)
