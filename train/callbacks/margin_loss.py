"""Train for margins that a certificate can use."""

from __future__ import annotations

from torch import Tensor

from ...layers.lipschitz.heads import margin_logits
from ..errors import RunError
from .hooks import Callback, TrainingRun, callbacks

__all__ = ["MarginLoss"]


@callbacks.register(name="margin_loss")
class MarginLoss(Callback):
    """Train on the cross-entropy of (f − √2 ε onehot(y)) / T; evaluation stays as it is.

    The true logit is taken down by what a change of the input of length ε can take from the margin
    of a network whose logit vector is 1-Lipschitz, and T sharpens logits that are bounded.

    Args:
        offset: ε ≥ 0, in the units that the network reads: 36/255 of a pixel in [0, 1] is that over
            the standard deviation where the data are normalised.
        temperature: T > 0.

    Raises:
        ValueError: a setting out of range.

    Source: Prach and Lampert 2022, arXiv:2208.03160, §5 (there with a factor T on the loss).
    """

    def __init__(self, offset: float = 0.5, temperature: float = 0.25) -> None:
        """Keep the settings."""
        if not offset >= 0.0:
            raise ValueError(f"callbacks.margin_loss.offset must be at least 0, got {offset}")
        if not temperature > 0.0:
            raise ValueError(
                f"callbacks.margin_loss.temperature must be positive, got {temperature}"
            )
        self.offset, self.temperature = offset, temperature

    def start(self, run: TrainingRun) -> None:
        """Refuse data without one class a sample."""
        if run.splits.kind not in ("image", "features"):
            raise RunError(
                f"callbacks.margin_loss needs images or features with one class each, got data of "
                f"kind {run.splits.kind!r}; leave it out"
            )

    def logits(self, run: TrainingRun, logits: Tensor, targets: Tensor) -> Tensor:
        """Shift and sharpen the logits."""
        return margin_logits(logits.float(), targets, self.offset, self.temperature)
