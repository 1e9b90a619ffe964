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

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..layers.hyperbolic import BallCurvature
from ..zoo.network import Network
from ..zoo.registry import nearest
from .data import Splits, data_sets
from .pixels import FromPixels, pixel_batches

__all__ = [
    "SCORES",
    "Separation",
    "embedding_norm",
    "energy",
    "fit_images",
    "max_softmax",
    "out_sets",
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


def fit_images(pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bring foreign images to a shape: resized bilinearly, grey repeated or colours averaged.

    Args:
        pixels: (N, C, H, W) in [0, 1].
        shape: (C', H', W').

    Raises:
        ValueError: a change of channels that has no such meaning.
    """
    channels, height, width = shape
    if pixels.shape[1] != channels:
        if pixels.shape[1] != 1 and channels != 1:
            raise ValueError(f"images of {pixels.shape[1]} channels do not become {channels}")
        pixels = pixels.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if pixels.shape[2:] == (height, width):
        return pixels
    size = (height, width)
    return F.interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0.0, 1.0)


OURS = ("rotated", "noise")
OutSet = Callable[[], Iterator[Tensor]]


def out_sets(
    chosen: Iterable[str | Mapping[str, Any]],
    splits: Splits,
    name: str,
    *,
    samples: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, OutSet]:
    """Make out-sets for an image data set, as pixels of its shape.

    `rotated` is its own test fold, turned by 90°; `noise` are two sets of as many images,
    `noise_gaussian` with the mean and standard deviation of its channels, held in [0, 1], and
    `noise_uniform` on [0, 1]; `digits` all of scikit-learn's 1,797 scans, and any other registered
    image data set its test fold, both by `fit_images`.

    Args:
        chosen: Names, or mappings with `name` and the data set's options.
        splits: The in-set.
        name: Its name, which is no out-set.
        samples: At most how many images of each.
        batch_size: Images in a batch.
        seed: Of noise and of the choice of samples.
        device: Where to put them.
        dtype: Of the pixels.

    Returns:
        For each set a function that yields its batches.

    Raises:
        ValueError: no such set or option, data that is missing, the in-set itself, or images that
            cannot be turned or brought to the shape.
    """
    if splits.kind != "image" or splits.mean is None or splits.std is None:
        raise ValueError(f"out-sets are images, but {name} gives {splits.kind}; write out=[]")
    mean, std = splits.mean, splits.std
    options = {"batch_size": batch_size, "seed": seed, "device": device, "dtype": dtype}

    def inside() -> Iterator[Tensor]:
        return (x for x, _ in pixel_batches(splits.test, mean, std, samples=samples, **options))

    def rotated() -> Iterator[Tensor]:
        return (x.rot90(1, (2, 3)) for x in inside())

    def noise(gaussian: bool) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for x in inside():
            if gaussian:
                scale, shift = (torch.tensor(v)[:, None, None] for v in (std, mean))
                drawn = torch.randn(x.shape, generator=generator) * scale + shift
            else:
                drawn = torch.rand(x.shape, generator=generator)
            yield drawn.clamp(0.0, 1.0).to(x)

    sets: dict[str, OutSet] = {}
    for entry in chosen:
        given = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
        wanted = str(given.pop("name", None))
        if wanted == name:
            raise ValueError(f"{name} is what the model was trained on, and no out-set")
        if wanted not in (*OURS, *data_sets.names()):
            known = nearest(wanted, [*OURS, *data_sets.names()])
            raise ValueError(f"no out-set {entry!r}{known}")
        if wanted in sets or (wanted == "noise" and "noise_uniform" in sets):
            raise ValueError(f"the out-set {wanted} is named twice")
        if given and wanted in OURS:
            raise ValueError(f"{wanted} takes no options, got {', '.join(map(str, given))}")
        if wanted == "noise":
            sets["noise_gaussian"] = lambda: noise(True)
            sets["noise_uniform"] = lambda: noise(False)
        elif wanted == "rotated":
            if splits.shape[1] != splits.shape[2]:
                raise ValueError(f"rotated needs square images, {name} has {splits.shape}")
            sets["rotated"] = rotated
        else:
            sets[wanted] = _foreign(wanted, given, splits.shape, samples, options)
    return sets


def _foreign(
    name: str,
    given: Mapping[str, Any],
    shape: tuple[int, ...],
    samples: int | None,
    options: Mapping[str, Any],
) -> OutSet:
    """The test fold of another data set; of the digits all folds, since none was trained on."""
    if data_sets[name].kind != "image":
        raise ValueError(f"out-sets are images, but {name} gives {data_sets[name].kind}")
    if name == "digits":
        given = {"augment": False, **given}
    other = data_sets.build(name, **given)
    folds = (other.train, other.validation, other.test) if name == "digits" else (other.test,)

    def batches() -> Iterator[Tensor]:
        left = samples
        for fold in folds:
            if left == 0:
                return
            for x, _ in pixel_batches(fold, other.mean, other.std, samples=left, **options):
                yield fit_images(x, shape)
            if left is not None:
                left = max(0, left - len(fold))

    return batches
