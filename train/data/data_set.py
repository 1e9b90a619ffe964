"""What a data set is to the trainer: three folds, their shape, and facts to log."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...zoo.registry import Registry

__all__ = ["IGNORE", "KINDS", "Fold", "Graph", "Key", "Splits", "data_sets"]

Key = tuple[int, int]

KINDS = ("image", "features", "tokens", "nodes", "graph", "sequence", "masked")
"""What a sample may be: an image, a row of a table, a text, a node with candidates, a node, a
sequence with its class, or one of which tokens are hidden."""

IGNORE = -100
"""The target of what no loss and no metric counts, such as padding or a token in plain sight."""

WHOLE = {"interpolation": "bilinear", "crop_mode": "center", "crop_pct": 1.0}
"""An evaluation of whole images."""

data_sets = Registry("data set")


class Fold(Protocol):
    """Samples that are fetched by the batch.

    A key is `(round, index)`. The round changes every epoch; together with the index it is the
    only source of randomness, so a sample does not depend on the batch, worker or rank.

    A fold whose attribute `orders_itself` is true is asked for the indices in order, and draws or
    permutes what is behind them itself: one that is too large for a list of its indices.
    """

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Fetch a batch: inputs (N, …) and targets (N,) or, for tokens, (N, T)."""
        ...


@dataclass(frozen=True)
class Graph:
    """The graph that the samples of a data set are nodes of, as training may know it.

    Args:
        edges: Undirected and of the training fold alone, each once, int64, shape (E, 2).
        num_nodes: N.
        features: A row for each node, float32, shape (N, F), or None.
    """

    edges: Tensor
    num_nodes: int
    features: Tensor | None = None

    @classmethod
    def of(cls, relations: Tensor, num_nodes: int, features: Tensor | None = None) -> "Graph":
        """Make a graph of relations (R, 2): their directions and repetitions are left out."""
        return cls(torch.unique(relations.sort(1).values, dim=0), num_nodes, features)

    def sizes(self) -> dict[str, int]:
        """What a model must know to hold the graph, by the keywords of its builder."""
        width = 0 if self.features is None else self.features.shape[1]
        return {
            "num_nodes": self.num_nodes,
            "num_edges": len(self.edges),
            "in_features": width,
        }


@dataclass(frozen=True)
class Splits:
    """A data set cut into the fold to learn from, the fold to choose by and the fold to report.

    Args:
        kind: `image`, `features`, `tokens`, `nodes`, `graph`, `sequence` or `masked`.
        shape: One input: (C, H, W), (F,), (T,), for nodes (1 + candidates,), or for the number of a
            node of a graph (). Sequences have up to T tokens, padded to the longest of a batch.
        num_classes: Classes, or the size of the vocabulary, or the number of nodes.
        train: Augmented where the data set augments.
        validation: Never augmented, never part of the test fold.
        test: Never augmented.
        about: JSON-able facts to log: source, sizes, hashes, class names.
        mean: Mean per channel that was subtracted, for images in [0, 1].
        std: Standard deviation per channel that was divided by, for images in [0, 1].
        evaluation: How an image of a file becomes an input, under timm's names, where that is
            more than to take it as it is.
        graph: What a model of `nodes` or `graph` is told of the nodes' neighbours.
        vocab_size: Tokens of a sequence, whose classes are others.

    Raises:
        ValueError: kind is none of these.
    """

    kind: str
    shape: tuple[int, ...]
    num_classes: int
    train: Fold
    validation: Fold
    test: Fold
    about: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)
    graph: Graph | None = None
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse a kind that no model takes."""
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")

    def conventions(self) -> dict[str, Any]:
        """What a model must keep to be used on other samples, under timm's names where it has any.

        For images size, statistics and cut, for tables the encoder of their rows, for sequences
        their tokeniser and the column of a table, and the names of the classes.
        """
        facts: dict[str, Any] = {}
        if "classes" in self.about:
            facts["label_names"] = list(self.about["classes"])
        for key in ("encoder", "tokeniser", "column"):
            if key in self.about:
                facts[key] = self.about[key]
        if self.kind == "image" and self.mean is not None and self.std is not None:
            facts |= {"input_size": self.shape, "mean": self.mean, "std": self.std, **WHOLE}
        return facts | self.evaluation
