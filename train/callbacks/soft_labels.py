"""Soft labels of a frozen teacher, which may be of any architecture with the same logits.

    L = (1 - α) L_task + α τ² KL(softmax(z'/τ) ‖ softmax(z/τ))

z    logits, z' those of the teacher        τ    temperature, in [1e-3, 1e4]

The divergence is the mean over samples or, for tokens, over all that have a target. It is computed
in float64: at a high temperature it is τ² times a small difference of nearly equal shares, of which
float32 has no digit left.

Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network",
arXiv:1503.02531.
Differs from it: the two factors sum to one, and α = 1, the default, leaves the labels out: an
adapter is carried over by what its source says of a text alone (arXiv:2405.17258).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...layers.lowrank.maths.decompose import at_least_float32
from ...zoo.network import Network
from ..data import IGNORE
from ..errors import RunError
from .beside_teacher import BesideTeacher, distillations
from .hooks import TrainingRun

__all__ = ["SoftLabels", "soft_divergence"]

LEAST, MOST = 1e-3, 1e4  # of the temperature: beyond them even float64 loses the divergence


def soft_divergence(logits: Tensor, expected: Tensor, temperature: float = 1.0) -> Tensor:
    """Return τ² KL(softmax(z'/τ) ‖ softmax(z/τ)) of each row, computed in float64.

    A class that both exclude by -inf counts for nothing. Where z = z' value and gradient are 0,
    without a rounding, which an optimiser that divides by the gradient's size would follow.

    Args:
        logits: z, shape (..., K).
        expected: z', shape (..., K).
        temperature: τ in [1e-3, 1e4]; further away digits are lost.

    Returns:
        In nats, shape (...), in the dtype of the logits but at least float32.
    """
    mine, theirs = (
        (each.double() - each.detach().double().amax(-1, keepdim=True)) / temperature
        for each in (logits, expected)
    )
    # The form whose gradient, exp(z - log Σ exp z) - p', cancels bit by bit.
    normed = theirs.logsumexp(-1, keepdim=True)
    shares = (theirs - normed).exp()
    gap = torch.where(shares > 0, theirs - mine, 0.0)
    found = mine.logsumexp(-1) - normed.squeeze(-1) + (shares * gap).sum(-1)
    return (temperature**2 * found).to(at_least_float32(logits).dtype)


@distillations.register(name="soft_labels", source="arXiv:1503.02531", any_architecture=True)
class SoftLabels(BesideTeacher):
    """Train on the probabilities of a frozen teacher, which may be of another architecture.

    Args:
        network: The teacher, frozen and in evaluation; None while settings are only checked.
        teacher: Where it is from: a run, the folder of a saved model, hf-hub:OWNER/NAME or
            pretrained:NAME.
        share: α of the loss, in (0, 1]; the rest is that of the labels.
        temperature: τ in [1e-3, 1e4].

    Raises:
        ValueError: no teacher, or a setting out of range.
    """

    def __init__(
        self,
        network: Network | None,
        *,
        teacher: str | None = None,
        share: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        """Keep the settings."""
        super().__init__(network, teacher)
        if not 0.0 < share <= 1.0:
            raise ValueError(f"distill.share must lie in (0, 1], got {share}")
        if not LEAST <= temperature <= MOST:
            raise ValueError(
                f"distill.temperature must lie in [{LEAST:g}, {MOST:g}], got {temperature}"
            )
        self.share, self.temperature = share, temperature
        self.counted: Tensor | None = None

    def start(self, run: TrainingRun) -> None:
        """Watch both models.

        Raises:
            RunError: logits that are odds of each candidate, and no choice among all.
        """
        if run.model.logits_are_odds:
            raise RunError(
                f"distill=soft_labels compares choices among all classes, and each logit of "
                f"{type(run.model).__name__} is the odds of one candidate; use distill=pela"
            )
        self.watch(run, features=False)

    def logits(self, run: TrainingRun, logits: Tensor, targets: Tensor) -> Tensor:
        """Note which of the targets count; those of mixed samples are shares, and all do."""
        whole = targets.is_floating_point()
        self.counted = None if whole else targets != IGNORE
        return logits

    def loss(self, run: TrainingRun, loss: Tensor) -> Tensor:
        """Mix the divergence in, of the pass that the loss is of."""
        self.ask_teacher(run)
        assert self.mine.logits is not None and self.theirs.logits is not None
        each = soft_divergence(self.mine.logits, self.theirs.logits, self.temperature)
        if self.counted is not None:
            each = each[self.counted]
        divergence = each.mean()
        self.keep_terms({"divergence": divergence})
        return (1.0 - self.share) * loss + self.share * divergence
