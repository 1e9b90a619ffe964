"""Folds of whole clusters, every class in proportion: the same on every machine."""

import hashlib
from collections.abc import Sequence

import numpy as np

__all__ = ["PARTS", "SPLITS", "cluster_folds"]

PARTS, SPLITS = 10, 5
"""Parts that clusters are dealt to, and test folds of two of them."""


def cluster_folds(
    sequences: Sequence[str], targets: np.ndarray, clusters: np.ndarray, split: int
) -> dict[str, np.ndarray]:
    """Deal clusters to the folds, some 70 : 10 : 20 of each class.

    The largest cluster comes first, among equal ones that with the least hash of its letters, and
    goes where its classes are rarest; so neither the order of a file nor a generator decides.
    The test folds of all splits together hold every sequence once.

    Args:
        sequences: Their letters.
        targets: Class of each, int64 (N,).
        clusters: Number of the cluster of each, int64 (N,).
        split: Which fold to test on, in [0, 5).

    Returns:
        Numbers of the sequences of each fold, ascending.

    Raises:
        ValueError: split outside [0, 5).
    """
    if not 0 <= split < SPLITS:
        raise ValueError(f"split must lie in [0, {SPLITS - 1}], got {split}")
    _, number = np.unique(clusters, return_inverse=True)
    classes = int(targets.max()) + 1
    counts = np.zeros((int(number.max()) + 1, classes))
    np.add.at(counts, (number, targets), 1)
    digests = [hashlib.sha256(s.encode()).digest() for s in sequences]
    least: dict[int, bytes] = {}
    for each, digest in zip(number.tolist(), digests, strict=True):
        least[each] = min(digest, least.get(each, digest))
    order = sorted(range(len(counts)), key=lambda each: (-counts[each].sum(), least[each]))
    weights = 1.0 / np.maximum(1, counts.sum(0))
    held = np.zeros((PARTS, classes))
    part_of = np.zeros(len(counts), dtype=np.int64)
    for each in order:
        part = int((held @ (weights * counts[each])).argmin())
        part_of[each] = part
        held[part] += counts[each]
    part = (part_of[number] - 2 * split) % PARTS
    chosen = {"train": part > 2, "validation": part == 2, "test": part < 2}
    return {name: np.flatnonzero(inside) for name, inside in chosen.items()}
