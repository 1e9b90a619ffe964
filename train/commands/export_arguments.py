"""The arguments of `archzoo-export`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from omegaconf import MISSING

from ...layers.lowrank import Scheme
from ...zoo.transform.costs import METRICS
from ..errors import RunError
from .arguments import read_fields

__all__ = ["ExportConfig", "budget_of", "named_ranks", "read_arguments"]

BUDGETS = (*METRICS, "energy", "threshold", "ranks")


@dataclass
class ExportConfig:
    """How to export a finished run; every field is a key of the command line."""

    run: str = MISSING  # the run folder
    out: str = MISSING  # the folder to write; made where it is missing
    parameters: float | None = None  # budget: share of the dense model's, in (0, 1]
    macs: float | None = None  # the same, of multiply-accumulates
    latency: float | None = None  # the same, of measured time at batch `latency_batch`
    energy: float | None = None  # share of Σ σ² that every weight may lose, in [0, 1)
    threshold: float | None = None  # smallest σ that is kept
    ranks: list[str] = field(default_factory=list)  # NAME:RANK; what is not named is dense
    search: str = "loss"  # for a budget: greedy on the loss, or `spectrum`
    search_samples: int = 512  # of the training fold, the mini-batch of the search
    step: float = 0.2  # share of a weight's cost that a step of the search saves
    scheme: str | None = None  # unfolding; None is that of the run
    targets: list[str] | None = None  # patterns on names; None is what the run's method chose
    ordered: bool | None = None  # keep the order of trained components; None does after Maestro
    statistics: int | None = 10_000  # training samples for batch norms; None is all, 0 leaves them
    latency_batch: int = 1  # batch size that the budget `latency` means
    latency_seconds: float = 1.0  # how long each model is timed at each batch size
    validation: bool = False  # evaluate the validation fold too, to choose by
    batch_size: int = 250
    threads: int | None = None  # CPU threads of torch; None leaves torch's choice
    seed: int = 0  # of the choice of training samples
    root: str | None = None  # where the run's data lies now, if it has moved
    other_data: bool = False  # whether the data may differ from those that the run recorded
    imports: list[str] | None = None  # the user's own modules; None is those that the run recorded


def read_arguments(arguments: Sequence[str]) -> ExportConfig:
    """Read `key=value` arguments into typed fields.

    Raises:
        RunError: in one line, an unknown key, a value of another type or out of range, no folder,
            not exactly one budget.
    """
    config = read_fields("export", ExportConfig, arguments)
    given = list(budget_of(config))
    if len(given) != 1:
        raise RunError(
            f"give exactly one of {', '.join(BUDGETS)}, got {', '.join(given) or 'none'}"
        )
    for name in METRICS:
        share = getattr(config, name)
        if share is not None and not 0.0 < share <= 1.0:
            raise RunError(f"{name} must be a share of the dense model in (0, 1], got {share}")
    for name in ("search_samples", "batch_size", "latency_batch", "threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise RunError(f"{name} must be at least 1, got {value}")
    if config.statistics is not None and config.statistics < 0:
        raise RunError(f"statistics must be at least 0 samples, got {config.statistics}")
    named_ranks(config.ranks)
    if config.search not in ("loss", "spectrum"):
        raise RunError(f"search must be loss or spectrum, got {config.search!r}")
    if config.scheme is not None and config.scheme not in get_args(Scheme):
        raise RunError(
            f"scheme must be one of {', '.join(get_args(Scheme))}, got {config.scheme!r}"
        )
    return config


def budget_of(config: ExportConfig) -> dict[str, Any]:
    """What was given of the ways to say how small."""
    values = {name: getattr(config, name) for name in BUDGETS}
    return {name: value for name, value in values.items() if value not in (None, [])}


def named_ranks(given: Sequence[str]) -> dict[str, int]:
    """Read NAME:RANK; a name may hold a colon itself."""
    ranks = {}
    for entry in given:
        name, _, rank = entry.rpartition(":")
        if not name or not rank.isdecimal():
            raise RunError(f"ranks must hold NAME:RANK, such as blocks.0.fc1:16, got {entry!r}")
        ranks[name] = int(rank)
    return ranks
