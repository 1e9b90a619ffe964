"""Export a model: to torch.export, to ONNX, or at fixed ranks.

format=pt2 and format=onnx write files that run without archzoo, with plain weights. They are loaded
again and compared with the model on real samples before they are kept; where outputs differ,
nothing is written and the exit code is 1:

    archzoo export RUN OUT format=onnx
    archzoo export gpt_nano OUT format=[pt2,onnx]        with decoder.*, one step with the cache
    archzoo export hf-hub:OWNER/NAME OUT format=pt2 data=cifar10 data.root=DIR

A budget chooses ranks for a run, cuts the model to them, estimates batch norms anew on the training
fold, evaluates the test fold, and measures parameters, MACs and CPU latency beside the dense model.
Writes a model folder, which `create_model("local-dir:DIR")` rebuilds, with an export.json. Latency
is that of `plain_layers(model)`, whose two convolutions have their kernels ready:

    archzoo export RUN OUT parameters=0.3                at most 30 % of the dense model's
    archzoo export RUN OUT parameters=0.3 format=[folder,onnx]
    archzoo export RUN OUT latency=0.8 scheme=spatial
    archzoo export RUN OUT energy=0.02 validation=true   a share of Σ σ² of every weight
"""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...layers.lowrank import (
    Controller,
    FactoredConv2d,
    Factors,
    Scheme,
    merge,
    reestimate_batch_norm,
    structures,
)
from ...zoo.network import Network
from ...zoo.share.save_load import save_model
from ...zoo.transform.compress import factorize, fixed_ranks, ranks_by
from ...zoo.transform.costs import METRICS, Metric, costs_of, count_macs, latencies
from ...zoo.transform.plain_layers import plain_layers
from ...zoo.transform.rank_search import search_ranks, spectrum_ranks
from ..command_line.answer import Answer
from ..command_line.arguments import takes
from ..command_line.export_arguments import ExportConfig, budget_of, named_ranks
from ..command_line.finished_run import FinishedRun, finished_run
from ..command_line.table import aligned
from ..data import Batches, Fold, loader, needs_shuffling
from ..engine.metrics import cross_entropy, evaluate
from ..engine.saved.folder_lock import is_locked
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError
from ..subject.exported_files import export_files, table_of_files, whole_model

__all__ = ["export", "exported", "table"]

TIMED = (1, 64)  # batch sizes of the reported latencies
KINDS = ("image", "features", "tokens")
COUNTED = ("parameters", "convolution parameters", "MACs")


@takes(ExportConfig)
def export(**options: Any) -> Answer:
    """Export a model to a folder, and say what it costs and how well it does.

    Args:
        options: Fields of `ExportConfig`.
    """
    config = ExportConfig(**options)
    found = exported(config)
    parts = [table(found)] if "ranks" in found else []
    parts += [table_of_files(found, config.out)] if "parity" in found else []
    return Answer(found, "\n\n".join([*parts, str(Path(config.out) / "export.json")]))


def exported(config: ExportConfig) -> dict[str, Any]:
    """Write a model, cut to fixed ranks where there is a budget; return what export.json holds.

    Raises:
        RunError: the run has not ended, its data is missing, the budget cannot be met, the model
            has no such format or differs in it, or `out` is the folder of a run.
    """
    if RunFolder(Path(config.out)).holds_run() or is_locked(Path(config.out)):
        raise RunError(f"out={config.out} holds a run, which an export would overwrite")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if not budget_of(config):
        model, inputs, about = whole_model(
            config.run,
            data=config.data,
            samples=config.samples,
            seed=config.seed,
            root=config.root,
            other_data=config.other_data,
            imports=config.imports,
        )
        name = type(model).__name__ if model.recipe is None else model.recipe.name
        return _write(config, model, inputs, {"model": name, "run": config.run, **about})
    run = finished_run(
        config.run,
        config.root,
        kinds=KINDS,
        other_data=config.other_data,
        imports=config.imports,
    )
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
        "budget": budget_of(config),
        "search": config.search,
        "tested": run.tested,
    }
    if config.statistics != 0:
        found["before_statistics"] = _accuracies(config, run, model)
        fold = run.splits.train
        samples = len(fold) if config.statistics is None else config.statistics
        batches = _batches(config, fold, samples, min(config.batch_size, samples))
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
    return _write(config, model, _sample(run.splits.test, config.samples), found)


def table(found: Mapping[str, Any]) -> str:
    """Write what `exported` returned for a reader."""
    accuracy = found["accuracy"]
    told = "" if found["tested"] is None else f"{100 * found['tested']:.2f}"
    rows = [("", "dense", "exported", "ratio")]
    for fold, figures in accuracy.items():
        before, after = told if fold == "test" else "", f"{100 * figures['accuracy']:.2f}"
        rows.append((f"{fold} accuracy, %", before, after, ""))
    for name in COUNTED:
        a, b = found["dense"][name], found["exported"][name]
        if a:
            rows.append((name, f"{a:,}", f"{b:,}", f"{b / a:.3f}"))
    for a, b in zip(found["dense"]["latency"], found["exported"]["latency"], strict=True):
        one, other = a["milliseconds"], b["milliseconds"]
        name = f"latency at batch {a['batch']}, ms"
        rows.append((name, f"{one:.3g}", f"{other:.3g}", f"{other / one:.3f}"))
    lines = aligned(rows)
    dense = [row["name"] for row in found["ranks"] if row["rank"] is None]
    lines += ["", f"{'rank':>6}  {'of':>4}  weight"]
    lines += [
        f"{'dense' if row['rank'] is None else row['rank']:>6}  {row['full']:>4}  {row['name']}"
        for row in found["ranks"]
    ]
    head = f"{found['model']} on {found['data']}, {found['scheme']} factors"
    left = f", {len(dense)} of {len(found['ranks'])} weights stay dense" if dense else ""
    return "\n".join([head + left, "", *lines])


def _write(
    config: ExportConfig, model: Network, inputs: Tensor, found: dict[str, Any]
) -> dict[str, Any]:
    """Write a model in every format, and what was found of it; files that differ stop it first."""
    how = {"decoder": config.decoder, "tolerance": config.tolerance}
    how["seconds"] = config.latency_seconds
    files = [name for name in config.format if name != "folder"]
    if files:
        found = export_files(model, inputs, config.out, files, about=found, **how)
    folder = RunFolder(Path(config.out))
    if "folder" in config.format:
        try:
            folder.guard(lambda: save_model(model, folder.path))
        except ValueError as error:
            raise RunError(str(error)) from error
    if not files:
        folder.write_text("export.json", json.dumps(found, indent=2) + "\n")
    return found


def _choose(config: ExportConfig, run: FinishedRun, controller: Controller) -> dict[str, int]:
    """Ranks for whichever budget was given."""
    if config.ranks:
        return named_ranks(config.ranks)
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
    samples = config.search_samples
    inputs, targets = next(_batches(config, run.splits.train, samples, samples))

    def loss(model: nn.Module) -> float:
        return float(cross_entropy(model(inputs), targets))

    return search_ranks(controller, costs, budget, loss, step=config.step)


def _batches(
    config: ExportConfig, fold: Fold, samples: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled whole batches of the training fold, augmented as in training."""
    size = min(batch_size, len(fold))
    shuffle = needs_shuffling(fold)
    cut = Batches(len(fold), size, seed=config.seed, shuffle=shuffle, drop_last=True)
    return itertools.islice(iter(loader(fold, cut)), max(1, min(samples, len(fold)) // size))


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
    """Count models, and time them side by side, with plain layers in the place of factored ones."""
    one = _sample(run.splits.test, 1)
    found: dict[str, dict[str, Any]] = {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "convolution parameters": _convolution_parameters(model),
            "MACs": count_macs(model, one),
            "latency": [],
        }
        for name, model in models.items()
    }
    for batch in TIMED:
        sample = _sample(run.splits.test, batch)
        fast = [plain_layers(model) for model in models.values()]
        seconds = latencies(fast, sample, seconds=config.latency_seconds)
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
