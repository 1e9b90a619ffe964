"""A comparison from its axes to its rows: build, measure in turns, and train by the one engine."""

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...zoo.inspect.describe import INDICES, example_shape
from ...zoo.models import build_model, models
from ...zoo.network import Network
from ..check import model_options
from ..config import options_of
from ..data import Splits, data_sets
from ..errors import RunError
from .learning import Trained, train_points
from .measured_costs import Candidate, Spread, measure_sizes, measure_times
from .points import Axes, ComparedPoint, product, training_config

__all__ = ["Comparison", "Row", "compare_points"]


@dataclass
class Row:
    """What was found of one point.

    Attributes:
        point: Which.
        sizes: Parameters, MACs and the two figures of memory.
        times: Forward pass, training step and, for a model that generates, decoding.
        trained: One for every seed.
    """

    point: ComparedPoint
    sizes: Mapping[str, int]
    times: Mapping[str, Spread]
    trained: list[Trained] = field(default_factory=list)

    def costs(self) -> dict[str, Any]:
        """Sizes and times as JSON holds them."""
        return {**self.sizes, **{k: dataclasses.asdict(v) for k, v in self.times.items()}}


@dataclass
class Comparison:
    """The rows, and why a point has none or was not trained, by its label."""

    rows: list[Row]
    refused: dict[str, str]
    batch: list[int]


def compare_points(
    axes: Axes,
    *,
    data: str | None,
    batch_size: int,
    seconds: float,
    tokens: int,
    device: torch.device,
    train: int | None = None,
    seeds: int = 1,
    overrides: Sequence[str] = (),
    out: Path | None = None,
) -> Comparison:
    """Measure every point of a product that can be built, and train it where that is asked for.

    Args:
        axes: Values of `model`, `residual`, `geometry` and `lowrank`.
        data: A data set's name, whose samples are read; None takes noise of each model's own shape.
        batch_size: Samples of what is measured; runs have that of their config.
        seconds: About how long each point is timed, for each kind of time.
        tokens: Tokens to decode at once.
        device: Where to measure.
        train: Steps of the runs; None trains nothing.
        seeds: Runs of each point, with seeds 0, 1, ….
        overrides: Further settings of the runs, and of the data that is read.
        out: The folder of the runs.

    Raises:
        RunError: an axis that cannot be read, data that is missing, or a run that was stopped.
    """
    points = product(axes)
    splits: Splits | None = None
    rows, refused, candidates = [], {}, []
    for point in points:
        try:
            options = point.options()
            if data is not None:
                config = training_config(point, data, 0, train or 1, overrides)
                splits = splits or _read(config.data)
                options = model_options(
                    config, splits.shape, splits.num_classes, splits.graph, splits.vocab_size
                )
            candidate = _candidate(point, options, splits, batch_size, device)
            rows.append(Row(point, measure_sizes(candidate), {}))
            candidates.append(candidate)
        except (ValueError, RunError) as error:
            refused[point.label] = " ".join(str(error).split())
    for row, times in zip(
        rows, measure_times(candidates, seconds=seconds, tokens=tokens), strict=True
    ):
        row.times = times
    shape = list(candidates[0].inputs.shape) if candidates else []
    candidates.clear()  # their memory is the training's
    if train is not None and data is not None and out is not None:
        with contextlib.redirect_stdout(sys.stderr):  # what is printed is the answer alone
            costs = {row.point.label: row.costs() for row in rows}
            found, failed = train_points(
                [row.point for row in rows], costs, data, train, seeds, overrides, out
            )
        for row in rows:
            row.trained = found[row.point.label]
        refused |= {label: f"measured, not trained: {why}" for label, why in failed.items()}
    return Comparison(rows, refused, shape)


def _read(options: Mapping[str, Any]) -> Splits:
    """Read the data.

    Raises:
        RunError: they cannot be read.
    """
    try:
        return data_sets.build(options["name"], **options_of(options))
    except OSError as error:
        raise RunError(str(error)) from error


def _candidate(
    point: ComparedPoint,
    options: Mapping[str, Any],
    splits: Splits | None,
    batch_size: int,
    device: torch.device,
) -> Candidate:
    """Build a point's model and its batch.

    Raises:
        ValueError: the model cannot be built.
    """
    torch.manual_seed(0)
    model = build_model(point.values["model"], **options).to(device).train()
    if splits is None:
        inputs, targets = _noise(point.values["model"], model, batch_size)
    else:
        if splits.graph is not None:
            model.follow_graph(splits.graph.edges, splits.graph.features)
        size = min(batch_size, len(splits.train))
        inputs, targets = splits.train.__getitems__([(0, i) for i in range(size)])
    return Candidate(model, inputs.to(device), targets.to(device))


def _noise(name: str, model: Network, batch_size: int) -> tuple[Tensor, Tensor]:
    """Samples of a model's own shape, and targets that its logits have."""
    entry = models[name]
    shape, classes = example_shape(entry), model.num_classes
    if entry.kind not in INDICES:
        return torch.randn(batch_size, *shape), torch.randint(max(classes, 1), (batch_size,))
    known = {key: option.default for key, option in entry.options.items()}
    key = "vocab_size" if entry.kind in ("tokens", "sequence") else "num_nodes"
    inputs = torch.randint(known[key], (batch_size, *shape))
    if entry.kind == "tokens":
        return inputs, inputs.roll(-1, dims=-1)
    if getattr(model, "names_tokens", False):
        return inputs, inputs
    if entry.kind == "sequence":
        return inputs, torch.randint(max(classes, 1), (batch_size,))
    return inputs, torch.zeros(batch_size, dtype=torch.long)
