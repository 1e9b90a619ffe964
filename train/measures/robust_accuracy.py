"""Accuracy under attack: how many samples of a fold stay right at each radius.

The attacks are those of `zoo.certify.pgd`, which a certificate is tested with too. ε and the box
are in the units of x. A network that was trained on normalised images is attacked as
`pixels.FromPixels(model, mean, std)`, which reads pixels in [0, 1]: ε is then stated in pixels.
"""

# Shape letters: N samples, E radii.

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...zoo.certify.pgd import FGSM as FGSM
from ...zoo.certify.pgd import Model, attack, correct
from ...zoo.certify.pgd import fgsm as fgsm
from ...zoo.certify.pgd import margin_loss as margin_loss
from ..data import counter_key

__all__ = [
    "FGSM",
    "Robustness",
    "adversarial_accuracy",
    "attack",
    "correct",
    "fgsm",
    "margin_loss",
]


class Robustness(NamedTuple):
    """Which samples a model classifies right, clean and under attack.

    `eps` holds E radii in ascending order, `right` (E + 1, N) a row for the clean samples and one
    for each radius; a sample that fell in a smaller ball has fallen in every larger one.
    """

    eps: tuple[float, ...]
    right: Tensor

    @property
    def clean(self) -> float:
        """Accuracy on the clean samples, in [0, 1]."""
        return float(self.right[0].double().mean())

    @property
    def attacked(self) -> tuple[float, ...]:
        """Accuracy at each radius, in [0, 1]."""
        return tuple(self.right[1:].double().mean(1).tolist())


def adversarial_accuracy(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    eps: Sequence[float],
    *,
    restarts: int = 1,
    seed: int = 0,
    **options: Any,
) -> Robustness:
    """Attack every sample at every radius and count what stays right.

    A sample counts as right at ε if it is right clean and no attack at ε or below, in any restart,
    changed that. So accuracy never rises with ε, nor with restarts, nor above the clean accuracy.
    What has fallen is not attacked again.

    Args:
        model: As in `attack`.
        batches: Samples and their classes, on the device of the model.
        eps: Radii, at least one.
        restarts: As in `attack`.
        seed: As in `attack`.
        options: The other keywords of `attack`.

    Raises:
        ValueError: no radius, no sample, or what `attack` refuses.
    """
    radii = tuple(sorted(eps))
    if not radii:
        raise ValueError("eps must name at least one radius, got none")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")
    found = []
    for x, y in batches:
        with torch.no_grad():
            standing = correct(model(x), y)
        rows = [standing.clone()]
        for radius in radii:
            for restart in range(restarts):
                left = standing.nonzero().squeeze(1)
                if not len(left):
                    break
                key = counter_key(seed, restart)
                moved = attack(model, x[left], y[left], radius, seed=key, **options)
                with torch.no_grad():
                    standing[left] = correct(model(moved), y[left])
            rows.append(standing.clone())
        found.append(torch.stack(rows).cpu())
    if not found:
        raise ValueError("batches hold no sample")
    return Robustness(radii, torch.cat(found, dim=1))
