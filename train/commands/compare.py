"""Compare mechanisms on this machine: sizes, memory, times and learning curves.

Every combination of what is named is built and measured: parameters, MACs of a sample, bytes kept
for the backward pass, peak memory of a training step, and the times of a forward pass, of a forward
and backward pass, and of a decoded token, in turns, as medians with half the distance of their
quartiles. A combination that cannot be built is listed with its reason. With `train` each is
trained by `archzoo train` with every seed, at equal samples; the same command takes a comparison up
where it was stopped. `out` gets compare.csv, compare.json, the runs and their report.html.

    archzoo compare model=[vit_nano] residual=[add,attnres,delta]
    archzoo compare model=[resnet_nano] lowrank=[none,maestro,sltrain] data=digits batch_size=64
    archzoo compare model=[gpt_nano,gpt_nano_block_attnres] --json
    archzoo compare model=[vit_nano] residual=[add,attnres] data=digits train=300 seeds=3 out=DIR
"""

from pathlib import Path
from typing import Any, Literal

from ..command_line.answer import Answer
from ..errors import RunError, UsageError, check_at_least_one
from ..user_imports import import_parts

__all__ = ["compare"]


def compare(
    *settings: str,
    model: list[str],
    residual: tuple[Any, ...] = (),
    geometry: tuple[str, ...] = (),
    lowrank: tuple[str, ...] = (),
    data: str | None = None,
    batch_size: int = 32,
    train: int | None = None,
    seeds: int = 1,
    optim: str | None = None,
    out: str | None = None,
    seconds: float = 1.0,
    tokens: int = 32,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    imports: tuple[str, ...] = (),
) -> Answer:
    """Measure every combination of models and mechanisms, and train each where that is asked for.

    Args:
        settings: Further settings of the runs, as for `archzoo train`: trainer.batch_size=32.
        model: Names of models.
        residual: Residuals, by name or as {name: delta, …}; none named leaves each model its own.
        geometry: Geometries, of models that have a choice; none named leaves each its own.
        lowrank: Low-rank methods; `none` is dense weights.
        data: The data set to measure and train on; null measures noise of each model's own shape.
        batch_size: Samples of what is measured; runs have trainer.batch_size.
        train: Optimiser steps of each run; null trains nothing.
        seeds: Runs of each combination, with seeds 0, 1, ….
        optim: The runs' optimiser, as for `archzoo train`; null is its default.
        out: The folder to write; made where it is missing.
        seconds: About how long each combination is timed, for each kind of time.
        tokens: Tokens to decode at once.
        device: Where to measure.
        threads: CPU threads of torch; null leaves torch's choice.
        imports: Your own modules.

    Raises:
        RunError: a value out of range, data that is missing, or a run that was stopped.
    """
    check_at_least_one(
        batch_size=batch_size, seeds=seeds, tokens=tokens, train=train, threads=threads
    )
    if not 0 < seconds < float("inf"):
        raise RunError(f"seconds must be above 0, got {seconds}")
    if train is not None and (data is None or out is None):
        missing = "data=NAME" if data is None else "out=DIR"
        raise UsageError(f"train={train} needs {missing} as well")
    if train is None and (settings or optim is not None):
        raise UsageError(f"{(*settings, f'optim={optim}')[0]} is for runs; add train=STEPS")
    import_parts(imports)
    import torch

    from ..compare.comparison import compare_points
    from ..compare.comparison_files import found_of, table, write_files

    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("device=cuda, but torch sees no CUDA device; use device=cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    cuda = device != "cpu" and torch.cuda.is_available()
    comparison = compare_points(
        {"model": model, "residual": residual, "geometry": geometry, "lowrank": lowrank},
        data=data,
        batch_size=batch_size,
        seconds=seconds,
        tokens=tokens,
        device=torch.device("cuda" if cuda else "cpu"),
        train=train,
        seeds=seeds,
        overrides=[*settings, *([] if optim is None else [f"optim={optim}"])],
        out=None if out is None else Path(out),
    )
    about = {"data": data, "batch_size": batch_size, "train": train, "seeds": seeds}
    found = found_of(comparison, about | _machine(torch.device("cuda" if cuda else "cpu")))
    text = table(comparison)
    if out is not None:
        write_files(found, Path(out))
        text += f"\n\n{Path(out) / 'compare.csv'}"
        if train is not None and any(row.trained for row in comparison.rows):
            from ..report.page import write_report

            write_report([Path(out)], Path(out) / "report.html")
            text += f"\n{Path(out) / 'report.html'}"
    failed = None if comparison.rows else "no combination can be built; the reasons stand above"
    return Answer(found, text, failed)


def _machine(device: Any) -> dict[str, Any]:
    from ..engine.saved.environment import environment

    return {"device": str(device), "environment": environment()}
