"""Folds of whole clusters, every class in proportion: the same on every machine."""

import hashlib
from collections.abc import Sequence

import numpy as np

__all__ = ["NEEDED", "PARTS", "SPLITS", "cluster_folds"]

PARTS, SPLITS = 10, 5
"""Parts that clusters are dealt to, and test folds of two of them."""

NEEDED = SPLITS
"""Clusters of one class alone, from which on it is in every fold of every split."""

FEW = 10 * PARTS
"""Clusters of a class below which it does not fill all parts alike by itself."""


def cluster_folds(
    sequences: Sequence[str], targets: np.ndarray, clusters: np.ndarray, split: int
) -> dict[str, np.ndarray]:
    """Deal clusters to the folds, some 70 : 10 : 20 of each class and of all sequences.

    The largest cluster comes first, among equal ones that with the least hash of its letters, and
    goes where its classes are rarest; so neither the order of a file nor a generator decides. Of
    parts that are equal in that, a cluster of a class with few of them goes to the emptiest, so
    that what many small classes leave over does not add up in one part. A class of five clusters
    has one for the validation fold of each split, and so more than a tenth of it is there.
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
    part = (_parts(sequences, targets, number)[number] - 2 * split) % PARTS
    chosen = {"train": part > 2, "validation": part == 2, "test": part < 2}
    return {name: np.flatnonzero(inside) for name, inside in chosen.items()}


def _parts(sequences: Sequence[str], targets: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Deal clusters 0, 1, … to the parts; return the part of each, int64."""
    least: dict[int, bytes] = {}
    for each, letters in zip(number.tolist(), sequences, strict=True):
        digest = hashlib.sha256(letters.encode()).digest()
        least[each] = min(digest, least.get(each, digest))
    # The classes of each cluster and how often it has them; both may be as many as sequences.
    classes = int(targets.max()) + 1
    pairs, counts = np.unique(number * classes + targets, return_counts=True)
    owner, kinds = pairs // classes, pairs % classes
    starts = np.searchsorted(owner, np.arange(len(least) + 1))
    sizes = np.bincount(number)
    weights = 1.0 / np.maximum(1, np.bincount(targets, minlength=classes))
    having = np.bincount(kinds, minlength=classes)
    held, load = np.zeros((classes, PARTS)), np.zeros(PARTS, dtype=np.int64)
    found = np.zeros(len(least), dtype=np.int64)
    for each in sorted(least, key=lambda each: (-sizes[each], least[each])):
        own = slice(starts[each], starts[each + 1])
        kind, count = kinds[own], counts[own]
        # No product of matrices, which rounds otherwise on other machines and so breaks other ties.
        cost = ((weights[kind] * count)[:, None] * held[kind]).sum(0)
        fewest = int(having[kind].min())
        if fewest < FEW:
            part = _least_held(cost, load, least[each], spread=fewest >= NEEDED)
        else:
            part = int(cost.argmin())
        found[each] = part
        held[kind, part] += count
        load[part] += sizes[each]
    return found


def _least_held(cost: np.ndarray, load: np.ndarray, digest: bytes, *, spread: bool) -> int:
    """Choose among the parts of least cost the emptiest, among equal ones by a digest.

    Args:
        cost: Of each part.
        load: Sequences of each part.
        digest: Of the cluster.
        spread: Whether even parts go before others where none of its classes is: one of them
            validates in each split, and each is a part of another test fold.
    """
    tied = np.flatnonzero(cost == cost.min()).tolist()
    first = digest[0] % PARTS
    spread = spread and not cost.min()
    return min(tied, key=lambda part: (spread and part % 2, load[part], (part - first) % PARTS))
