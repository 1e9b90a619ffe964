"""How well links are told from pairs that are none, and how well nodes are classified.

    auc                  probability that a true pair scores above a false one, ties counting half
    average_precision    Σ_n (r_n − r_{n−1}) p_n over falling thresholds; precision p, recall r
    f1                   2 p r / (p + r) of the second of two classes
    macro_f1             mean of that over the classes, of more than two

For links the pairs of all samples are pooled: the true candidate of each beside its negatives. For
nodes of two classes the score is the difference of the two logits.

Source: torchmetrics computes all four.
Differs from it: scores are brought to (0, 1) in float64 by an increasing map that keeps them apart.
torchmetrics would take a sigmoid in float32, which makes one score of all below −104, and only of a
batch that holds a score outside [0, 1].
"""

# Shape letters: B samples, K candidates or classes.

from typing import Any

import torch
from torch import Tensor

__all__ = ["GraphMetrics", "in_unit_interval"]


def in_unit_interval(scores: Tensor) -> Tensor:
    """Map scores to (0, 1) in float64 and keep their order: (1 + s / (1 + |s|)) / 2."""
    s = scores.double()
    return 0.5 + 0.5 * s / (1 + s.abs())


class GraphMetrics:
    """Metrics of logits on a fold of `nodes` or of a `graph`; of any other kind there are none.

    Args:
        kind: Of the data.
        device: Where logits come from.
    """

    def __init__(self, kind: str, device: torch.device) -> None:
        """Start empty."""
        self.kind, self.device = kind, device
        self._metrics: dict[str, Any] = {}
        self._positives: Any = None

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: logits (B, K), and the true candidate or class of each sample (B,)."""
        if self.kind not in ("nodes", "graph"):
            return
        classes = logits.shape[-1]
        if not self._metrics:
            self._start(classes)
        if self.kind == "graph":
            predicted = logits.argmax(-1)
            for name in self._metrics.keys() & {"f1", "macro_f1"}:
                self._metrics[name].update(predicted, targets)
            if classes != 2:
                return
            scores, truth = logits[:, 1] - logits[:, 0], targets
        else:
            truth = torch.arange(classes, device=targets.device) == targets[:, None]
            scores, truth = logits.flatten(), truth.flatten().long()
        self._positives.update(truth.double().mean(), truth.numel())
        for name in ("auc", "average_precision"):
            self._metrics[name].update(in_unit_interval(scores), truth)

    def compute(self) -> dict[str, float]:
        """Return the figures over all processes; a ranking of one class alone has none."""
        names = set(self._metrics)
        if self._positives is not None and not 0 < float(self._positives.compute()) < 1:
            names -= {"auc", "average_precision"}
        return {name: float(m.compute()) for name, m in self._metrics.items() if name in names}

    def _start(self, classes: int) -> None:
        from torchmetrics import MeanMetric
        from torchmetrics.classification import (
            BinaryAUROC,
            BinaryAveragePrecision,
            BinaryF1Score,
            MulticlassF1Score,
        )

        made: dict[str, Any] = {}
        if self.kind == "graph":
            made = {"f1": BinaryF1Score()} if classes == 2 else {
                "macro_f1": MulticlassF1Score(classes, average="macro")
            }  # fmt: skip
        if self.kind == "nodes" or classes == 2:
            made |= {"auc": BinaryAUROC(), "average_precision": BinaryAveragePrecision()}
            self._positives = MeanMetric().to(self.device).set_dtype(torch.float64)
        self._metrics = {name: metric.to(self.device) for name, metric in made.items()}
