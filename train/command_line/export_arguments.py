"""The arguments of `archzoo export`: its own, and which of `compress` a command line can give."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from ...layers.lowrank import Scheme
from ...zoo.share.export import TOLERANCE
from ...zoo.transform.costs import METRICS
from ..errors import RunError, UsageError, check_at_least_one
from .arguments import formerly

__all__ = ["COMPRESSION", "ExportConfig", "budget_of", "check_compression", "named_ranks"]

FormatName = Literal["folder", "pt2", "onnx"]

BUDGETS = (*METRICS, "energy", "threshold", "ranks", "case")

COMPRESSION = ("budget", "allocation", "sensitivity", "sequential", "base", "rank")
"""Keywords of `compress` that are keys of the command, and mean something beside `case`."""


@formerly(run="model", root="data.root")
@dataclass
class ExportConfig:
    """How to export a model. It is cut by one of the keys `parameters` to `case`, or kept whole.

    Args:
        model: The folder of a run or of a saved model, hf-hub:OWNER/NAME, pretrained:NAME or
            pretrained:NAME/TAG; kept whole also a registered name, which has untrained weights.
        out: The folder to write; made where it is missing.
        format: What to write: folder, a model folder; pt2, for torch.export; onnx; or several.
        parameters: Budget: share of the dense model's parameters, in (0, 1].
        macs: Budget: share of its multiply-accumulates.
        latency: Budget: share of its measured time, at batch `latency_batch`.
        energy: Share of Σ σ² that every weight may lose, in [0, 1).
        threshold: Smallest σ that is kept.
        ranks: NAME:RANK of weights; what is not named is dense.
        case: How to compress by data, with `budget`, or with `base` and `rank`; see
            docs/compress.md for the cases.
        search: For a budget: greedy on the loss, or by the spectra.
        search_samples: Of the training fold: the mini-batch of the search.
        step: Share of a weight's cost that a step of the search saves.
        scheme: Unfolding of convolutions; null is that of the run.
        targets: Patterns on names of weights; null is what the run's method chose.
        calibration: Training samples that `case` looks at, shuffled and augmented as in training.
        calibration_batch: Of them at a time; what fills no batch is left out.
        ordered: Whether to keep the order of trained components; null does after Maestro.
        statistics: Training samples for batch norms; null is all, 0 leaves them.
        latency_batch: Batch size that the budget `latency` means.
        latency_seconds: How long each model is timed at each batch size.
        validation: Whether to evaluate the validation fold too, to choose by.
        batch_size: Of samples.
        threads: CPU threads of torch; null leaves torch's choice.
        seed: Of the choice of training samples.
        data: Data set to calibrate and to measure on, whose test fold pt2 and onnx are compared on
            too, with its keys as data.KEY=value; null is the run's. A model that is kept whole
            does with random numbers where none is known.
        samples: How many of them; they are compared at a batch of 1 and 3 as well.
        tolerance: Share of its largest output by which an exported model may differ.
        decoder: Whether a language model is written with its cache too, as decoder.pt2 and .onnx.
        other_data: Whether the data may differ from those that the run recorded.
        imports: Your own modules; null is those that the run recorded.

    Raises:
        RunError: a value out of range, several budgets, or none for a folder alone.
    """

    model: str
    out: str
    _: KW_ONLY
    format: tuple[FormatName, ...] = ("folder",)
    parameters: float | None = None
    macs: float | None = None
    latency: float | None = None
    energy: float | None = None
    threshold: float | None = None
    ranks: tuple[str, ...] = ()
    case: str | None = None
    search: Literal["loss", "spectrum"] = "loss"
    search_samples: int = 512
    step: float = 0.2
    scheme: Scheme | None = None
    targets: list[str] | None = None
    calibration: int = 256
    calibration_batch: int = 64
    ordered: bool | None = None
    statistics: int | None = 10_000
    latency_batch: int = 1
    latency_seconds: float = 1.0
    validation: bool = False
    batch_size: int = 250
    threads: int | None = None
    seed: int = 0
    data: str | dict[str, Any] | None = None
    samples: int = 8
    tolerance: float = TOLERANCE
    decoder: bool = True
    other_data: bool = False
    imports: list[str] | None = None

    def __post_init__(self) -> None:
        """Check the ranges, and that there is one budget."""
        given = list(budget_of(self))
        whole = any(name != "folder" for name in self.format)
        if len(given) > 1 or not (given or whole):
            raise UsageError(
                f"give exactly one of {', '.join(BUDGETS)}, got {', '.join(given) or 'none'}; "
                f"format=pt2 or format=onnx needs none"
            )
        for name in METRICS:
            share = getattr(self, name)
            if share is not None and not 0.0 < share <= 1.0:
                raise RunError(f"{name} must be a share of the dense model in (0, 1], got {share}")
        counts = ("search_samples", "batch_size", "latency_batch", "samples", "threads")
        counts += ("calibration", "calibration_batch")
        check_at_least_one(**{name: getattr(self, name) for name in counts})
        if self.statistics is not None and self.statistics < 0:
            raise RunError(f"statistics must be at least 0 samples, got {self.statistics}")
        if not self.tolerance > 0:
            raise RunError(f"tolerance must be above 0, got {self.tolerance}")
        named_ranks(self.ranks)
        if self.case is not None and self.scheme not in (None, "channel"):
            raise RunError(
                f"case={self.case} unfolds kernels by channel, the one scheme that is a map of "
                f"what a layer sees, got scheme={self.scheme}; leave scheme out"
            )
        if self.case is not None and self.ordered is not None:
            raise RunError(f"case={self.case} orders components by data; leave ordered out")


def check_compression(config: ExportConfig, given: Mapping[str, Any]) -> None:
    """Refuse keywords of `compress` without a case, and where they would have no effect.

    Args:
        config: The command's own.
        given: The keywords that the command line named, of `COMPRESSION`.

    Raises:
        UsageError: naming one of them.
    """
    if config.case is None and given:
        name = next(iter(given))
        raise UsageError(
            f"{name}={given[name]} is of a compression by data; say which with case=, such as "
            f"case=feature_mimicking"
        )
    if config.case is not None and given.get("base") is not None:
        for name in ("allocation", "sensitivity", "sequential"):
            if name in given:
                raise UsageError(
                    f"{name}={given[name]} chooses ranks for budget=, and base= has rank=; leave "
                    f"{name} out"
                )


def budget_of(config: ExportConfig) -> dict[str, Any]:
    """What was given of the ways to say how small."""
    values = {name: getattr(config, name) for name in BUDGETS}
    return {name: value for name, value in values.items() if value not in (None, [], ())}


def named_ranks(given: Sequence[str]) -> dict[str, int]:
    """Read NAME:RANK; a name may hold a colon itself.

    Raises:
        UsageError: no such pair.
    """
    ranks = {}
    for entry in given:
        name, _, rank = entry.rpartition(":")
        if not name or not rank.isdecimal():
            raise UsageError(f"ranks must hold NAME:RANK, such as blocks.0.fc1:16, got {entry!r}")
        ranks[name] = int(rank)
    return ranks
