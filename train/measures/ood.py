"""Does a network notice that an image is foreign? Scores of one image, and how well they separate.

A score is high for images like those it was trained on:

    norm          distance of the pooled features from the origin: ‖f‖, and 2‖t‖ for tangents t of a
                  ball, whatever its curvature
    energy        T · log Σ exp(z/T) of the logits z
    max_softmax   the largest softmax probability

Orientation: the in-distribution is the positive class, so an out-set image that scores high is a
false positive. Only the order of scores counts; any increasing map of a score changes nothing.

Sources: Hendrycks and Gimpel 2017, arXiv:1610.02136 (max_softmax, AUROC, AUPR); Liu et al. 2020,
arXiv:2010.03759 (energy, FPR95); van Spengler et al. 2023, arXiv:2303.14027 (the norm and the
energy of hyperbolic networks).
Differs from them: every image of an out-set counts once, where the last draws a fifth as many
as the in-set has, ten times. AUPR depends on that ratio; FPR95 and AUROC do not.
"""

# Shape letters: N images, D features, K classes, C channels, H height, W width.

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ...layers.hyperbolic import BallCurvature, space_points
from ...zoo.network import Network
from .pixels import FromPixels

__all__ = [
    "SCORES",
    "Separation",
    "embedding_norm",
    "energy",
    "max_softmax",
    "scores",
    "separation",
]

SCORES = ("norm", "energy", "max_softmax")


def embedding_norm(features: Tensor, hyperbolic: bool = False) -> Tensor:
    """Return the distance from the origin: 2‖t‖ for tangents of a ball, else ‖f‖.

    Shape:
        (N, D) -> (N,), in float64.
    """
    length = torch.linalg.vector_norm(features.double(), dim=1)
    return 2 * length if hyperbolic else length


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T · log Σ exp(z/T), in nats for T = 1: the energy of arXiv:2010.03759, negated.

    Shape:
        (N, K) -> (N,), in float64.

    Raises:
        ValueError: temperature ≤ 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return temperature * (logits.double() / temperature).logsumexp(1)


def max_softmax(logits: Tensor) -> Tensor:
    """Return the largest softmax probability.

    Shape:
        (N, K) -> (N,), in float64.
    """
    return logits.double().softmax(1).amax(1)


@torch.no_grad()
def scores(
    model: FromPixels, batches: Iterable[Tensor], temperature: float = 1.0
) -> dict[str, Tensor]:
    """Score images by all of `SCORES`.

    Args:
        model: Around a model of the zoo, in eval mode.
        batches: Pixels (N, C, H, W), on the device of the model.
        temperature: Of the energy.

    Returns:
        A float64 tensor for each score, on the CPU, in the order of the images.

    Raises:
        ValueError: no image, a model that is not of the zoo, or temperature ≤ 0.
    """
    network = model.model
    if not isinstance(network, Network):
        raise ValueError(f"scores need the features of a zoo model, got {type(network).__name__}")
    hyperbolic = any(isinstance(module, BallCurvature) for module in network.modules())
    found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    for x in batches:
        features = network.forward_features(model.normalize(x))
        pooled = network.forward_head(features, pre_logits=True)
        logits = network.head(pooled)
        if network.shared.get("coordinates") == "space":
            pooled = space_points.to_tangent(pooled, network.shared["curvature"]())
        found["norm"].append(embedding_norm(pooled.flatten(1), hyperbolic).cpu())
        found["energy"].append(energy(logits, temperature).cpu())
        found["max_softmax"].append(max_softmax(logits).cpu())
    if not found["norm"]:
        raise ValueError("there is no image to score")
    return {name: torch.cat(parts) for name, parts in found.items()}


class Separation(NamedTuple):
    """How well a score tells the in-set from an out-set.

    `fpr95` is the share of the out-set above the highest threshold that keeps 95 % of the in-set
    (less is better, chance 0.95, 1 for a constant score); `auroc` the probability that an in-set
    image scores higher, ties counting half (chance 0.5); `aupr` the average precision with the
    in-set as positives (chance is the share of in-set images).
    """

    fpr95: float
    auroc: float
    aupr: float


def separation(inside: Tensor, outside: Tensor) -> Separation:
    """Measure how well one score separates, by scikit-learn's functions.

    Args:
        inside: Scores of the in-set, shape (any,), high where an image looks familiar.
        outside: Scores of the out-set.

    Raises:
        ValueError: an empty set, or a score that is not finite.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    for name, values in {"inside": inside, "outside": outside}.items():
        if not len(values):
            raise ValueError(f"{name} holds no score")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} holds {int((~values.isfinite()).sum())} scores not finite")
    score = torch.cat([inside, outside]).double().numpy()
    familiar = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).numpy()
    false, true, _ = roc_curve(familiar, score, drop_intermediate=False)
    return Separation(
        float(false[true >= 0.95].min()),
        float(roc_auc_score(familiar, score)),
        float(average_precision_score(familiar, score)),
    )
