"""Export a model: to torch.export, to ONNX, or smaller, at fixed ranks.

format=pt2 and format=onnx write files that run without archzoo, with plain weights. They are loaded
again and compared with the model on real samples before they are kept; where outputs differ,
nothing is written and the exit code is 1:

    archzoo export RUN OUT format=onnx
    archzoo export gpt_nano OUT format=[pt2,onnx]        with decoder.*, one step with the cache
    archzoo export hf-hub:OWNER/NAME OUT format=pt2 data=cifar10 data.root=DIR

A budget chooses ranks, cuts the model to them, estimates batch norms anew on the training fold,
evaluates the test fold, and measures parameters, MACs and CPU latency beside the dense model.
Writes a model folder, which `create_model("local-dir:DIR")` rebuilds, with an export.json. Latency
is that of `plain_layers(model)`, whose two convolutions have their kernels ready:

    archzoo export RUN OUT parameters=0.3                at most 30 % of the dense model's
    archzoo export RUN OUT parameters=0.3 format=[folder,onnx]
    archzoo export RUN OUT latency=0.8 scheme=spatial
    archzoo export RUN OUT energy=0.02 validation=true   a share of Σ σ² of every weight

A case looks at training samples, of the run or of data=, for the ranks and for the factors:

    archzoo export RUN OUT case=feature_mimicking budget=0.4
    archzoo export RUN OUT case=svd_llm budget=0.4 sensitivity=output calibration=512
    archzoo export RUN OUT case=eora base=prune:2:4 rank=8
    archzoo export pretrained:NAME OUT case=svd budget=0.5 allocation=energy sensitivity=local
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.lowrank import reestimate_batch_norm
from ...zoo.network import Network
from ...zoo.share.save_load import save_model
from ...zoo.transform.data_aware import compress
from ..command_line.answer import Answer
from ..command_line.arguments import takes
from ..command_line.export_arguments import (
    COMPRESSION,
    ExportConfig,
    budget_of,
    check_compression,
)
from ..command_line.table import aligned
from ..engine.metrics import evaluate
from ..engine.saved.folder_lock import is_locked
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError
from ..measures.model_costs import COUNTED, TIMED, model_costs
from ..subject.exported_files import export_files, table_of_files, trained_on_data, whole_model
from ..subject.model_on_data import ModelOnData
from ..subject.smaller_model import Smaller, compressed, cut

__all__ = ["export", "exported", "table"]


@takes(ExportConfig)
@takes(compress, only=COMPRESSION)
def export(**options: Any) -> Answer:
    """Export a model to a folder, and say what it costs and how well it does.

    Args:
        options: Fields of `ExportConfig`, and keywords of `compress`.
    """
    how = {name: options.pop(name) for name in COMPRESSION if name in options}
    config = ExportConfig(**options)
    found = exported(config, how)
    parts = [table(found)] if "ranks" in found else []
    parts += [table_of_files(found, config.out)] if "parity" in found else []
    return Answer(found, "\n\n".join([*parts, str(Path(config.out) / "export.json")]))


def exported(config: ExportConfig, how: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write a model, smaller where there is a budget or a case; return what export.json holds.

    Args:
        config: The command's own settings.
        how: Keywords of `compress`, beside a case.

    Raises:
        RunError: the run has not ended, its data is missing, the budget cannot be met, the model
            has no such format or differs in it, or `out` is the folder of a run.
    """
    how = dict(how or {})
    check_compression(config, how)
    if RunFolder(Path(config.out)).holds_run() or is_locked(Path(config.out)):
        raise RunError(f"out={config.out} holds a run, which an export would overwrite")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    given = {
        "data": config.data,
        "seed": config.seed,
        "other_data": config.other_data,
        "imports": config.imports,
    }
    if not budget_of(config):
        model, inputs, about = whole_model(config.model, samples=config.samples, **given)
        name = type(model).__name__ if model.recipe is None else model.recipe.name
        return _write(config, model, inputs, {"model": name, "run": config.model, **about})
    subject, tested = trained_on_data(config.model, **given)
    by_data = config.case is not None
    smaller = compressed(config, subject, how) if by_data else cut(config, subject)
    found = _measured(config, subject, smaller, tested)
    return _write(config, smaller.model, subject.sample("test", config.samples), found)


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
    kind = f"{found['scheme']} factors"
    if "compression" in found:
        kind = " ".join(f"{key}={value}" for key, value in found["budget"].items())
        ratio = found["compression"]["additivity"]["ratio"]
        if ratio is not None:
            lines += ["", f"distortion of all weights over the sum of each: {ratio:.2f}"]
    left = f", {len(dense)} of {len(found['ranks'])} weights stay dense" if dense else ""
    return "\n".join([f"{found['model']} on {found['data']}, {kind}{left}", "", *lines])


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


def _measured(
    config: ExportConfig, subject: ModelOnData, smaller: Smaller, tested: float | None
) -> dict[str, Any]:
    """Estimate batch norms anew, and measure the smaller model beside the dense one."""
    trained = getattr(subject.model, "lowrank", None)
    if tested is None:
        tested = _accuracy(config, subject, smaller.dense, "test")["accuracy"]
    found: dict[str, Any] = {
        "model": subject.name,
        "data": subject.data,
        "run": config.model,
        "lowrank": None if trained is None else type(trained.method).__name__,
        **smaller.facts,
        "tested": tested,
    }
    if config.statistics != 0:
        found["before_statistics"] = _accuracies(config, subject, smaller.model)
        fold = subject.fold("train")
        samples = len(fold) if config.statistics is None else config.statistics
        batches = subject.drawn(samples, min(config.batch_size, samples), config.seed)
        reestimate_batch_norm(smaller.model, (inputs for inputs, _ in batches))
    found["accuracy"] = _accuracies(config, subject, smaller.model)
    models = {"dense": smaller.dense, "exported": smaller.model}
    sample = subject.sample("test", max(TIMED))
    found |= model_costs(models, sample, seconds=config.latency_seconds)
    found["ranks"] = smaller.ranks
    found["torch"], found["threads"] = torch.__version__, torch.get_num_threads()
    return found


def _accuracies(
    config: ExportConfig, subject: ModelOnData, model: nn.Module
) -> dict[str, dict[str, float]]:
    folds = ("validation", "test") if config.validation else ("test",)
    return {fold: _accuracy(config, subject, model, fold) for fold in folds}


def _accuracy(
    config: ExportConfig, subject: ModelOnData, model: nn.Module, fold: str
) -> dict[str, float]:
    batches = subject.batches(fold, config.batch_size)
    return evaluate(model, batches, subject.splits.kind, torch.device("cpu"), nullcontext)
