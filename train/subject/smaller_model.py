"""A trained model made smaller: cut to ranks by its spectra, or compressed by data."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ...layers.lowrank import Controller, Factors, Scheme, structures
from ...zoo.network import Network
from ...zoo.transform.compress import densified, factorize, fixed_ranks, ranks_by
from ...zoo.transform.compression_report import CompressionReport
from ...zoo.transform.costs import METRICS, Metric, costs_of
from ...zoo.transform.data_aware import compress
from ...zoo.transform.distortion import additivity
from ...zoo.transform.rank_search import search_ranks, spectrum_ranks
from ..command_line.export_arguments import ExportConfig, budget_of, named_ranks
from ..data.sequences.sequence_folds import unpadded
from ..engine.metrics import loss_for
from ..errors import RunError
from .given_model import find_model
from .model_on_data import ModelOnData

__all__ = ["Smaller", "compressed", "cut"]

COARSE = ("prune", "quant", "ranks")
"""What the bases that are no model begin with."""


class Smaller(NamedTuple):
    """A model made smaller.

    Attributes:
        model: Smaller, in eval mode.
        dense: The given one without factors.
        full: Full rank of every weight that could get factors, by name.
        facts: What `export.json` says of how it was made.
    """

    model: Network
    dense: Network
    full: Mapping[str, int]
    facts: dict[str, Any]

    @property
    def ranks(self) -> list[dict[str, Any]]:
        """Name, full rank and rank of every weight that could get factors; None is a dense one."""
        kept = {n: s.rank for n, _, s in structures(self.model) if isinstance(s, Factors)}
        return [
            {"name": name, "full": full, "rank": kept.get(name)} for name, full in self.full.items()
        ]


def cut(config: ExportConfig, subject: ModelOnData) -> Smaller:
    """Cut a model to ranks, by any budget but `case`.

    Raises:
        RunError: a budget that cannot be met, or a setting that does not fit the model.
    """
    model = cast(Network, subject.model)
    try:
        controller = factorize(
            model,
            scheme=cast(Scheme | None, config.scheme),
            targets=config.targets,
            ordered=config.ordered,
        )
        ranks = _chosen(config, subject, controller)
        small = fixed_ranks(model, controller, ranks)
    except ValueError as error:
        raise RunError(str(error)) from error
    full = {name: min(factors.shape[-2:]) for name, factors in controller.factors().items()}
    facts = {
        "scheme": controller.method.scheme,
        "budget": budget_of(config),
        "search": config.search,
    }
    return Smaller(small, densified(model), full, facts)


def compressed(config: ExportConfig, subject: ModelOnData, how: Mapping[str, Any]) -> Smaller:
    """Compress a model by training samples, as `compress` does; batch norms are left as they are.

    Args:
        config: With a case.
        subject: Whose training fold is looked at.
        how: Keywords of `compress` that were given.

    Raises:
        RunError: what `compress` refuses, and a base that is no model.
    """
    assert config.case is not None
    model, reports = cast(Network, subject.model), cast(list[CompressionReport], [])
    given = {**how, "targets": config.targets, "seed": config.seed}
    if how.get("base") is not None:
        given["base"] = _base(str(how["base"]), config)
    try:
        size = min(config.calibration, config.calibration_batch)
        drawn = subject.drawn(config.calibration, size, config.seed)
        data = [part for inputs, _ in drawn for part in _without_padding(inputs, subject)]
        small = compress(
            model, config.case, batches=data, batch_norm=False, report=reports.append, **given
        )
        dense = densified(model)
        adding = additivity(dense, small, data)
    except ValueError as error:
        raise RunError(str(error)) from error
    report = reports[0]
    total = sum(adding.single.values())
    facts = {
        "scheme": "channel",
        "budget": {"case": config.case, **how},
        "search": None,
        "compression": {
            "sensitivity": report.sensitivity if how.get("base") is None else None,
            "calibration": {"data": subject.data, "samples": sum(map(len, data)),
                            "batches": len(data)},
            "inputs": dict(report.inputs),
            "curves": {
                name: {"ranks": list(curve), "distortion": list(curve.values())}
                for name, curve in report.curves.items()
            },
            "additivity": {
                "joint": adding.joint,
                "sum": total,
                "ratio": None if math.isnan(adding.ratio) else adding.ratio,
            },
        },
    }  # fmt: skip
    return Smaller(small, dense, report.targets, facts)


def _without_padding(inputs: Tensor, subject: ModelOnData) -> Iterable[Tensor]:
    """Cut a batch so that what goes into a layer, of which moments are taken, are real tokens."""
    return unpadded(inputs) if subject.splits.kind in ("sequence", "masked") else (inputs,)


def _base(text: str, config: ExportConfig) -> str | nn.Module:
    """Return a coarse base as it is written, or the compressed copy that lies somewhere.

    Raises:
        RunError: neither.
    """
    if text.partition(":")[0] in COARSE:
        return text
    try:
        return find_model(text, config.imports).load()
    except RunError as error:
        raise RunError(
            f"base: {error}; or give prune:SHARE, prune:2:4, quant:BITS or ranks:SHARE"
        ) from error


def _chosen(config: ExportConfig, subject: ModelOnData, controller: Controller) -> dict[str, int]:
    """Ranks for whichever budget was given."""
    if config.ranks:
        return named_ranks(config.ranks)
    metric: Metric | None = next((n for n in METRICS if getattr(config, n) is not None), None)
    if metric is None:
        return ranks_by(controller, energy=config.energy, threshold=config.threshold)
    sample = None
    if metric != "parameters":
        sample = subject.sample("train", config.latency_batch if metric == "latency" else 1)
    costs = costs_of(controller, metric, sample)
    budget = getattr(config, metric) * costs.total
    if config.search == "spectrum":
        return spectrum_ranks(controller, costs, budget)
    loss = _loss_of(subject.drawn(config.search_samples, config.search_samples, config.seed))
    return search_ranks(controller, costs, budget, loss, step=config.step)


def _loss_of(drawn: Iterator[tuple[Tensor, Tensor]]) -> Callable[[nn.Module], float]:
    """Return the loss of a model on the first of some batches."""
    inputs, targets = next(drawn)

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(loss_for(model)(model(inputs), targets))

    return loss
