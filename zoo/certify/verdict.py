"""Radii of samples, attacks inside them, and what they do to a certificate.

With f the logits, L_jk the constant of f_j − f_k and f_y the largest logit, the predicted class
stays within

    r = min_j (f_y − f_j − 2δ) / L_yj

of a sample, in the L2 norm. δ bounds the rounding of the logits, of the sample and of the point
that an attack moves it to.

A point inside a radius that is classified otherwise, or a pair of points farther apart than the
bound allows, refutes a certificate: no claim is left of it.

Sources: Tsuzuku et al. 2018, arXiv:1802.04034 (margin radius); Leino et al. 2021, arXiv:2102.08452
(pairwise); Jin et al. 2022, arXiv:2205.10159 (rounding breaks certificates that ignore it).
"""

# Shape letters: N samples, K classes.

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...layers.lipschitz.proof.norms import product_up
from .certificate import Counterexample
from .pgd import attack, margin_loss

__all__ = ["accuracies", "attacked", "predictions", "radii"]

INSIDE = 0.999999999  # of a radius: where the attack must fail

Facts = dict[str, Any]


def predictions(logits: Tensor, y: Tensor | None) -> Facts:
    """Return predicted classes, which of them are right, and a radius of 0 for each.

    Raises:
        ValueError: logits of another shape than (N, K), or labels out of range.
    """
    if logits.dim() != 2 or logits.shape[1] < 1:
        raise ValueError(
            f"radii need logits (N, K) of at least one class, the model returned "
            f"{tuple(logits.shape)}; leave x out to bound the constant alone"
        )
    classes = logits.shape[1]
    if y is not None and not bool(((y >= 0) & (y < classes)).all()):
        raise ValueError(
            f"y must hold classes from 0 to {classes - 1}, got values from {int(y.min())} to "
            f"{int(y.max())}"
        )
    predicted = logits.argmax(1)
    right = torch.ones(len(logits), dtype=torch.bool) if y is None else predicted == y.cpu()
    return {
        "predicted": predicted,
        "correct": right,
        "clean_accuracy": share(right),
        "radius": torch.zeros(len(logits), dtype=torch.float64),
    }


def radii(logits: Tensor, constants: Tensor, error: float) -> Facts:
    """Return the radius of each sample.

    Args:
        logits: (N, K).
        constants: Of all differences of two logits (K, K).
        error: Bound of the rounding of the logits of one sample.
    """
    # Twice for the sample, and as much again for the point that an attack moves it to.
    slack = product_up(4.0, error)
    predicted = logits.argmax(1)
    margins = logits.gather(1, predicted[:, None]) - logits - slack
    own = constants[predicted]
    ratios = torch.where(own > 0, margins / own * (1 - 8 * 2.0**-53), math.inf)
    # A constant of 0 is a difference that no input changes.
    ratios = torch.where((own <= 0) & (margins <= 0), 0.0, ratios)
    ratios.scatter_(1, predicted[:, None], math.inf)
    return {"radius": ratios.amin(1).clamp_min(0.0), "slack": slack}


def accuracies(facts: Facts, eps: tuple[float, ...]) -> Facts:
    """Return certified accuracy at each ε."""
    shares = {e: share(facts["correct"] & (facts["radius"] > e)) for e in eps}
    return {"certified_accuracy": shares}


def attacked(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    facts: Mapping[str, Any],
    eps: tuple[float, ...],
    batch_size: int,
    options: Mapping[str, Any],
) -> tuple[Facts, Counterexample | None]:
    """Attack inside every radius and at every ε.

    Returns:
        What was found, and the first pair of points that a radius does not allow, or None.
    """
    radius, predicted, right = facts["radius"], facts["predicted"], facts["correct"]
    fallen = torch.zeros_like(right)
    found: Counterexample | None = None
    margins = []
    inside = (radius > 0).nonzero().squeeze(1)
    if not x.shape[1:].numel() or _classes(model, x) < 2:
        inside = inside[:0]
    for rows in inside.split(batch_size) if len(inside) else ():
        centre, classes = x[rows], predicted[rows]
        within = INSIDE * radius[rows].clamp_max(1e6 * (1 + float(centre.abs().max())))
        moved = attack(model, centre, classes, within, box=None, **options)
        with torch.no_grad():
            before, after = margin_loss(model(centre), classes), margin_loss(model(moved), classes)
        lost = ~(after < 0)
        fallen[rows] = lost
        if found is None and bool(lost.any()):
            i = int(lost.nonzero()[0])
            found = Counterexample(
                "an attack inside its radius changed the class of a sample", centre[i], moved[i],
                float(radius[rows][i]),
            )  # fmt: skip
        margins.append(after / before)
    standing, shares = right.clone(), {}
    for e in sorted(eps) if _classes(model, x) > 1 else ():
        left = standing.nonzero().squeeze(1)
        for rows in left.split(batch_size) if len(left) else ():
            moved = attack(model, x[rows], predicted[rows], e, box=None, **options)
            with torch.no_grad():
                standing[rows] = model(moved).argmax(1) == predicted[rows]
            lost = ~standing[rows] & (radius[rows] > e)
            if found is None and bool(lost.any()):
                i = int(lost.nonzero()[0])
                found = Counterexample(
                    f"an attack at ε = {e:g} changed the class of a sample", x[rows][i], moved[i],
                    float(radius[rows][i]),
                )  # fmt: skip
        fallen |= right & ~standing & (radius > e)
        shares[e] = share(standing)
    return {
        "attacked_accuracy": {e: shares[e] for e in eps if e in shares},
        "attack_violations": int(fallen.sum()),
        "attacked_samples": len(inside),
        "attack_margin": float(torch.cat(margins).median()) if margins else None,
    }, found


def _classes(model: Callable[[Tensor], Tensor], x: Tensor) -> int:
    with torch.no_grad():
        return model(x[:1]).shape[1]


def share(values: Tensor) -> float:
    """Return the share of true values."""
    return float(values.double().mean())
