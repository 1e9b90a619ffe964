"""Sequences of files, such as proteins: to classify, or to fill where tokens were hidden.

Similar sequences are of one cluster, and a fold has whole clusters, so that none that is tested
resembles one that was learned from. Sequences that are there twice are taken once.
"""

from dataclasses import replace
from typing import Any

from ..data_set import Splits, data_sets
from ..sequences.cluster_split import NEEDED
from ..sequences.dealt_sequences import dealt_sequences
from ..sequences.sequence_folds import MaskedFold

__all__ = ["masked_sequences", "sequences"]

NAMED = ("name", "classified")
"""What `dealt_sequences` is told and no config says."""


@data_sets.register(
    kind="sequence", source="files of your own", extends=dealt_sequences, given=NAMED
)
def sequences(**options: Any) -> Splits:
    """Sequences of a FASTA file or a table to classify, dealt to the folds by whole clusters.

    Args:
        options: Those of `dealt_sequences`.

    Raises:
        ValueError: as there, or fewer than two classes, or one that a fold has none of.
    """
    splits = dealt_sequences("sequences", classified=True, **options)
    classes, root = splits.about["classes"], splits.about["source"]
    if len(classes) < 2:
        raise ValueError(f"{root} has one class, {classes[0]!r}; at least two are told apart")
    folds = {name: getattr(splits, name).targets for name in ("train", "validation", "test")}
    for number, name in enumerate(classes):
        counts = {fold: int((targets == number).sum()) for fold, targets in folds.items()}
        empty = next((fold for fold, count in counts.items() if not count), None)
        if empty is not None:
            many = sum(counts.values())
            raise ValueError(
                f"{root}: class {name!r} has {many} sequence{'s' * (many > 1)} and none for the "
                f"{empty} fold; {NEEDED} clusters that are of this class alone are sure to be in "
                f"all: give more, or leave it out"
            )
    return splits


@data_sets.register(kind="masked", source="files of your own", extends=dealt_sequences, given=NAMED)
def masked_sequences(*, masked: float = 0.15, span: int | None = None, **options: Any) -> Splits:
    """The same sequences and folds with some tokens hidden, which a model is to name.

    Args:
        masked: Share of the tokens that are hidden, in (0, 1).
        span: How many in a row; None is k, since fewer k-mers can be read off their neighbours.
        options: Those of `dealt_sequences`; `target=""` where the files say no class. Folds are
            balanced by classes, so that other classes make other folds.

    Raises:
        ValueError: as there, or a share or a span out of range.
    """
    splits = dealt_sequences("masked_sequences", **options)
    size, k = splits.vocab_size, splits.about["tokeniser"]["k"]
    assert size is not None
    folds: dict[str, Any] = {
        name: MaskedFold(
            getattr(splits, name),
            size,
            share=masked,
            span=k if span is None else span,
            fixed=name != "train",
        )
        for name in ("train", "validation", "test")
    }
    about = {key: fact for key, fact in splits.about.items() if key != "classes"}
    about["hidden"] = {"share": masked, "span": k if span is None else span}
    return replace(splits, kind="masked", num_classes=size, **folds, about=about)
