"""Export a trained model at fixed ranks: `python -m archzoo.train.export run=DIR out=DIR`.

Chooses ranks for a budget, cuts the model to them, estimates batch norms anew on the training
fold, evaluates the test fold, and measures parameters, MACs and CPU latency beside the dense model.
Writes a model folder, which `create_model("local-dir:DIR")` rebuilds, with an export.json:

    archzoo-export run=DIR out=DIR parameters=0.3                at most 30 % of the dense model's
    archzoo-export run=DIR out=DIR latency=0.8 scheme=spatial
    archzoo-export run=DIR out=DIR energy=0.02 validation=true   a share of Σ σ² of every weight
"""

import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from ..layers.lowrank import (
    Controller,
    FactoredConv2d,
    Factors,
    Scheme,
    merge,
    reestimate_batch_norm,
    structures,
)
from ..zoo.compress import factorize, fixed_ranks, ranks_by
from ..zoo.costs import METRICS, Metric, costs_of, count_macs, latencies
from ..zoo.io import save_model
from ..zoo.rank_search import search_ranks, spectrum_ranks
from .arguments import print_help, read_fields
from .data import Batches, Fold, loader
from .errors import RunError
from .finished import FinishedRun, finished_run
from .folder import RunFolder
from .metrics import cross_entropy, evaluate

__all__ = ["ExportConfig", "export", "main", "read_arguments", "table"]

BUDGETS = (*METRICS, "energy", "threshold", "ranks")
TIMED = (1, 64)  # batch sizes of the reported latencies
KINDS = ("image", "features", "tokens")
COUNTED = ("parameters", "convolution parameters", "MACs")


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
    step: float = 0.2  # share of a weight's components that a step of the search removes
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


def read_arguments(arguments: Sequence[str]) -> ExportConfig:
    """Read `key=value` arguments into typed fields.

    Raises:
        RunError: in one line, an unknown key, a value of another type or out of range, no folder,
            not exactly one budget.
    """
    config = read_fields("export", ExportConfig, arguments)
    given = list(_budget(config))
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
    _named_ranks(config.ranks)
    if config.search not in ("loss", "spectrum"):
        raise RunError(f"search must be loss or spectrum, got {config.search!r}")
    if config.scheme is not None and config.scheme not in get_args(Scheme):
        raise RunError(
            f"scheme must be one of {', '.join(get_args(Scheme))}, got {config.scheme!r}"
        )
    return config


def export(config: ExportConfig) -> dict[str, Any]:
    """Cut the best model of a run to fixed ranks, write it, and return what export.json holds.

    Raises:
        RunError: the run has not ended, its data is missing, or the budget cannot be met.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    run = finished_run(config.run, config.root, kinds=KINDS)
    try:
        controller = factorize(
            run.model,
            scheme=cast(Scheme | None, config.scheme),
            targets=config.targets,
            ordered=config.ordered,
        )
        ranks = _choose(config, run, controller)
        model = fixed_ranks(run.model, controller, ranks)
    except ValueError as error:
        raise RunError(str(error)) from error
    trained = run.model.lowrank
    found: dict[str, Any] = {
        "model": run.name,
        "data": run.data,
        "run": config.run,
        "lowrank": None if trained is None else type(trained.method).__name__,
        "scheme": controller.method.scheme,
        "budget": _budget(config),
        "search": config.search,
        "tested": run.tested,
    }
    if config.statistics != 0:
        found["before_statistics"] = _accuracies(config, run, model)
        batches = _batches(config, run.splits.train, config.statistics)
        reestimate_batch_norm(model, (inputs for inputs, _ in batches))
    found["accuracy"] = _accuracies(config, run, model)
    dense = copy.deepcopy(run.model)
    merge(dense)
    found |= _measure(config, run, {"dense": dense, "exported": model})
    kept = {name: s.rank for name, _, s in structures(model) if isinstance(s, Factors)}
    found["ranks"] = [
        {"name": name, "full": min(factors.shape[-2:]), "rank": kept.get(name)}
        for name, factors in controller.factors().items()
    ]
    found["torch"], found["threads"] = torch.__version__, torch.get_num_threads()
    folder = RunFolder(Path(config.out))
    folder.guard(lambda: save_model(model, folder.path))
    folder.write_text("export.json", json.dumps(found, indent=2) + "\n")
    return found


def table(found: Mapping[str, Any]) -> str:
    """Write what `export` returned for a reader."""
    accuracy = found["accuracy"]
    told = "" if found["tested"] is None else f"{100 * found['tested']:.2f}"
    rows = [("", "dense", "exported", "ratio")]
    for fold, figures in accuracy.items():
        rows.append(
            (f"{fold} accuracy, %", told if fold == "test" else "",
             f"{100 * figures['accuracy']:.2f}", "")
        )  # fmt: skip
    for name in COUNTED:
        a, b = found["dense"][name], found["exported"][name]
        if a:
            rows.append((name, f"{a:,}", f"{b:,}", f"{b / a:.3f}"))
    for a, b in zip(found["dense"]["latency"], found["exported"]["latency"], strict=True):
        one, other = a["milliseconds"], b["milliseconds"]
        name = f"latency at batch {a['batch']}, ms"
        rows.append((name, f"{one:.3g}", f"{other:.3g}", f"{other / one:.3f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    dense = [row["name"] for row in found["ranks"] if row["rank"] is None]
    lines += ["", f"{'rank':>6}  {'of':>4}  weight"]
    lines += [
        f"{'dense' if row['rank'] is None else row['rank']:>6}  {row['full']:>4}  {row['name']}"
        for row in found["ranks"]
    ]
    head = f"{found['model']} on {found['data']}, {found['scheme']} factors"
    left = f", {len(dense)} of {len(found['ranks'])} weights stay dense" if dense else ""
    return "\n".join([head + left, "", *(line.rstrip() for line in lines)])


def main() -> None:
    """Export, print and write; an error of the user's is one line and exit code 1."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print_help(__doc__, "train/export.py", ExportConfig)
        return
    try:
        config = read_arguments(arguments)
        found = export(config)
    except RunError as error:
        sys.exit(f"archzoo-export: {error}")
    print(table(found))
    print(f"\n{Path(config.out) / 'export.json'}")


def _budget(config: ExportConfig) -> dict[str, Any]:
    """What was given of the ways to say how small."""
    values = {name: getattr(config, name) for name in BUDGETS}
    return {name: value for name, value in values.items() if value not in (None, [])}


def _named_ranks(given: Sequence[str]) -> dict[str, int]:
    """Read NAME:RANK; a name may hold a colon itself."""
    ranks = {}
    for entry in given:
        name, _, rank = entry.rpartition(":")
        if not name or not rank.isdecimal():
            raise RunError(f"ranks must hold NAME:RANK, such as blocks.0.fc1:16, got {entry!r}")
        ranks[name] = int(rank)
    return ranks


def _choose(config: ExportConfig, run: FinishedRun, controller: Controller) -> dict[str, int]:
    """Ranks for whichever budget was given."""
    if config.ranks:
        return _named_ranks(config.ranks)
    metric: Metric | None = next((n for n in METRICS if getattr(config, n) is not None), None)
    if metric is None:
        return ranks_by(controller, energy=config.energy, threshold=config.threshold)
    sample = None
    if metric != "parameters":
        size = config.latency_batch if metric == "latency" else 1
        sample = _sample(run.splits.train, size)
    costs = costs_of(controller, metric, sample)
    budget = getattr(config, metric) * costs.total
    if config.search == "spectrum":
        return spectrum_ranks(controller, costs, budget)
    inputs, targets = next(_batches(config, run.splits.train, config.search_samples))

    def loss(model: nn.Module) -> float:
        return float(cross_entropy(model(inputs), targets))

    return search_ranks(controller, costs, budget, loss, step=config.step)


def _batches(
    config: ExportConfig, fold: Fold, samples: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of the training fold, augmented as in training; one where they are few."""
    size = len(fold) if samples is None else min(samples, len(fold))
    each = size if samples == config.search_samples else min(config.batch_size, size)
    cut = Batches(len(fold), each, seed=config.seed, shuffle=True, drop_last=True)
    for i, batch in enumerate(loader(fold, cut)):
        if i * each >= size:
            return
        yield batch


def _accuracies(
    config: ExportConfig, run: FinishedRun, model: nn.Module
) -> dict[str, dict[str, float]]:
    folds = {"validation": run.splits.validation} if config.validation else {}
    folds["test"] = run.splits.test
    return {
        name: evaluate(
            model,
            loader(fold, Batches(len(fold), config.batch_size)),
            run.splits.kind,
            torch.device("cpu"),
            nullcontext,
        )
        for name, fold in folds.items()
    }


def _measure(
    config: ExportConfig, run: FinishedRun, models: Mapping[str, nn.Module]
) -> dict[str, dict[str, Any]]:
    """Count and time models side by side."""
    one = _sample(run.splits.test, 1)
    found: dict[str, dict[str, Any]] = {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "convolution parameters": _convolution_parameters(model),
            "MACs": count_macs(model.eval(), one),
            "latency": [],
        }
        for name, model in models.items()
    }
    for batch in TIMED:
        sample = _sample(run.splits.test, batch)
        seconds = latencies([*models.values()], sample, seconds=config.latency_seconds)
        for row, each in zip(found.values(), seconds, strict=True):
            row["latency"].append({"batch": batch, "milliseconds": 1000 * each})
    return found


def _sample(fold: Fold, size: int) -> Tensor:
    return fold.__getitems__([(0, i % len(fold)) for i in range(size)])[0]


def _convolution_parameters(model: nn.Module) -> int:
    """Numbers of all kernels, dense and factored."""
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            count += module.weight.numel()
        elif isinstance(module, FactoredConv2d):
            count += module.structure.parameter_count()
    return count


if __name__ == "__main__":
    main()
