"""Sequences of files, cleaned, cut into tokens and dealt to the folds by whole clusters."""

import hashlib
import logging
from typing import Any, Literal

import numpy as np
import torch

from ..data_set import Splits
from .cluster_split import PARTS, cluster_folds
from .kmer_tokeniser import Alphabet, KmerTokeniser
from .read_sequences import Record, read_sequences
from .sequence_folds import SequenceFold
from .setting_error import NoClassError
from .similarity_clusters import FEWEST, WORDS, similarity_clusters

__all__ = ["dealt_sequences"]

log = logging.getLogger("archzoo")

MANY_SHORT = 0.01
"""Share of sequences too short to be compared, above which it is said."""


def dealt_sequences(
    name: str,
    *,
    classified: bool = False,
    root: str = "data/sequences.fasta",
    column: str = "sequence",
    target: str | None = None,
    cluster: str | None = None,
    similarity: float = 0.03,
    split: int = 0,
    alphabet: Alphabet = "protein",
    k: int = 1,
    buckets: int = 8192,
    gaps: Literal["refuse", "remove"] = "refuse",
    unknown: Literal["refuse", "mark"] = "refuse",
    context_length: int = 512,
    crop: int | None = None,
) -> Splits:
    """Read sequences and their classes; any class may be missing from a fold.

    Args:
        name: Of the data set.
        classified: Whether the classes are to be told apart.
        root: A FASTA file or a table, `.csv` or `.tsv`, plain or `.gz`; or a folder with a FASTA
            file of each class.
        column: Of a table, the one with the letters.
        target: What says the class: a column, or KEY of `KEY=VALUE` in headers. None is the first
            other column, the last word of a header, or in a folder the name of the file without
            its ending; empty is one class for all.
        cluster: What says the cluster of a sequence, likewise; None finds clusters.
        similarity: Share of words in common, of 6 letters or 13 bases, from which on two sequences
            are of one cluster; see `similarity_clusters`.
        split: Which of five test folds to report, in [0, 4].
        alphabet: `protein`, `dna` or `bytes`.
        k: Letters of a token, in [1, 6].
        buckets: Most different k-mers; more are hashed to as many.
        gaps: Whether `-` and `.` are refused or left out.
        unknown: Whether letters of no alphabet are refused or become a token of their own.
        context_length: Most tokens of a sequence, its first ones.
        crop: Most tokens of a training sample, a window drawn anew every epoch; None is all.

    Raises:
        ValueError: no such file, a sequence that cannot be read, the same one in two classes,
            classes to be told apart of which every sequence has its own, or a fold without any.
    """
    tokeniser = KmerTokeniser(alphabet, k, buckets, gaps, unknown)
    try:
        read = read_sequences(root, column=column, target=target, cluster=cluster, name=name)
    except NoClassError as error:
        if classified:
            raise
        raise ValueError(
            f"{error.plain}, or say data.target= (empty), as hidden tokens need no class"
        ) from error
    records = _once(read, tokeniser)
    letters = [record.sequence for record in records]
    tokens = [tokeniser.tokens(record.sequence, record.name) for record in records]
    labels = [record.label for record in records]
    if classified and 1 < len(records) == len(set(labels)):
        raise ValueError(
            f"{root}: {records[0].said_by} has a value of its own in every row, such as "
            f"{labels[0]!r}; say data.target= and what says the class"
        )
    if cluster is None:
        word = WORDS[alphabet]
        _warn_of_short(letters, word)
        clusters = similarity_clusters(letters, word, similarity, strands=alphabet == "dna")
    else:
        clusters = _numbers([record.cluster for record in records])
    targets = _numbers(labels)
    rows = cluster_folds(letters, targets, clusters, split)
    folds: dict[str, Any] = {}
    for fold, own in rows.items():
        if not len(own):
            count = len(np.unique(clusters))
            raise ValueError(
                f"{root} has {count} cluster{'s' * (count > 1)} of similar sequences and leaves "
                f"the {fold} fold empty; give at least {PARTS} clusters"
            )
        folds[fold] = SequenceFold(
            [tokens[i] for i in own],
            torch.from_numpy(targets[own]),
            context_length,
            crop=crop if fold == "train" else None,
        )
    about = {
        "source": root,
        "column": column,
        "split": split,
        "clusters": len(np.unique(clusters)),
        "largest_cluster": int(np.unique(clusters, return_counts=True)[1].max()),
        "classes": sorted(set(labels)),
        "tokeniser": tokeniser.as_json(),
        "sizes": {fold: len(own) for fold, own in rows.items()},
        "sha256": {fold: _digest(records, own) for fold, own in rows.items()},
    }
    size = tokeniser.vocab_size
    return Splits(
        "sequence", (context_length,), len(about["classes"]), **folds, about=about, vocab_size=size
    )


def _once(records: list[Record], tokeniser: KmerTokeniser) -> list[Record]:
    """Clean the letters and leave repetitions out.

    Raises:
        ValueError: letters that are refused, or one sequence in two classes or clusters.
    """
    found: dict[str, Record] = {}
    for record in records:
        letters = tokeniser.letters(record.sequence, record.name)
        first = found.setdefault(letters, record._replace(sequence=letters))
        for what in ("label", "cluster"):
            own, other = getattr(record, what), getattr(first, what)
            if own != other:
                raise ValueError(
                    f"{record.name} has the {what} {own!r}, and the same sequence, {first.name}, "
                    f"{other!r}; leave one of them out"
                )
    if len(found) < len(records):
        log.warning("%s sequences are there again and taken once", len(records) - len(found))
    return list(found.values())


def _warn_of_short(letters: list[str], word: int) -> None:
    """Say how many sequences are too short to be found similar, where they are many."""
    most = word + FEWEST - 2
    short = sum(len(each) <= most for each in letters)
    if short > MANY_SHORT * len(letters):
        log.warning(
            "%s of %s sequences have %s letters or fewer, too few for %s words of %s, so that no "
            "other is found similar to them; give clusters by data.cluster=…",
            *(short, len(letters), most, FEWEST, word),
        )


def _numbers(names: list[str]) -> np.ndarray:
    """Number names in alphabetical order, int64."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def _digest(records: list[Record], rows: np.ndarray) -> str:
    digest = hashlib.sha256()
    for row in rows.tolist():
        digest.update(f"{records[row].label}\t{records[row].sequence}\n".encode())
    return digest.hexdigest()
