"""The figures that a card of weights states: of stored weights, on the test fold of their data."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...zoo.backbones.poincare_embedding import NodeEmbedding
from ...zoo.certify.certify_model import certify
from ..data import RelationFold
from ..errors import RunError
from ..measures.pixels import pixel_batches
from ..measures.reconstruction import reconstruction
from .evaluation import fold_figures
from .model_and_folds import ModelOnData

__all__ = ["HEADLINES", "card_figures", "certified_figures", "levels_of"]

HEADLINES = {"tokens": "bits_per_byte", "nodes": "map"}
"""The figure that stands for a model on data of a kind; accuracy is that of all others."""

FIGURES = ("accuracy", "bits_per_byte", "bits_per_token", "nll", "ece")


def card_figures(
    subject: ModelOnData, split: str = "test", *, batch_size: int = 250
) -> dict[str, float]:
    """Measure a model, on the CPU and in float32.

    Args:
        subject: The model and its data.
        split: The fold.
        batch_size: Samples at a time.

    Returns:
        `accuracy`, `nll` and `ece`; for text `bits_per_byte` before them; for nodes `mean_rank` and
        `map` instead.

    Raises:
        RunError: an empty fold, or logits that are no numbers.
    """
    if isinstance(subject.model, NodeEmbedding):
        fold = subject.fold(split)
        assert isinstance(fold, RelationFold)
        return reconstruction(subject.model.distances, fold.relations, fold.known, fold.num_nodes)
    how: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
    found, _ = fold_figures(subject, split, batch_size=batch_size, **how)
    return {key: found[key] for key in FIGURES if found.get(key) is not None}


def certified_figures(
    subject: ModelOnData, levels: Sequence[float], split: str = "test", *, attack: bool = False
) -> dict[str, float]:
    """Prove a model's constant and its predictions on a fold, as `archzoo certify` does.

    Args:
        subject: The model and its images or tables.
        levels: Radii in 1/255 of a pixel, or of a feature.
        split: The fold.
        attack: Whether to attack inside every radius, which can only refute.

    Returns:
        `lipschitz`, and by radius, such as `36/255`, the accuracy that is proved.

    Raises:
        RunError: the certificate is not rigorous, or refuted.
    """
    batches = pixel_batches(subject.fold(split), None, None, dtype=torch.float64)
    inputs, targets = zip(*batches, strict=True)
    found = certify(
        subject.model,
        torch.cat(inputs),
        torch.cat(targets),
        eps=[level / 255 for level in levels],
        input_std=subject.splits.std,
        attack=attack,
        estimate=attack,
    )
    if found.refuted is not None or not found.rigorous:
        why = "not rigorous" if found.refuted is None else f"refuted: {found.refuted.reason}"
        raise RunError(f"the certificate of {subject.name} on {subject.data} is {why}")
    shares = found.certified_accuracy.values()
    names = [f"{level:g}/255" for level in levels]
    return {"lipschitz": found.lipschitz, **dict(zip(names, shares, strict=True))}


def levels_of(certified: Mapping[str, float]) -> list[float]:
    """The radii, in 1/255, of what a card states as certified."""
    return [float(name.partition("/")[0]) for name in certified if "/" in name]
