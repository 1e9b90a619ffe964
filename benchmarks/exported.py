"""One model of each family as `torch.export` and ONNX, run in processes without this library.

Each model, as if trained, is written by `export_model`; a child that imports torch alone, or ONNX
Runtime and numpy alone (`run_exported.py`), loads the file and compares its outputs with those of
the model here, at batches of 1, 3 and 8. Milliseconds are medians of rounds in turns, one thread
each: eager in this process, the files in theirs.

    python benchmarks/exported.py --check          needs pip install "archzoo[export]"
"""

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from archzoo.train.subject.exported_files import AXES, random_inputs
from archzoo.zoo import create_model, model_info
from archzoo.zoo.share.export import FORMATS, export_model
from harness import Bar, Measurement, main
from torch import Tensor, nn

LOADER = Path(__file__).with_name("run_exported.py")
BATCH = 8
LIMIT = 1e-4  # share of the largest output
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet": ("resnet20", {}),
    "ViT, block AttnRes": ("vit_nano", {"residual": "block_attnres"}),
    "GPT": ("gpt_nano", {}),
    "MLP, deep delta": ("mlp_nano", {"residual": "delta"}),
    "MLP, hyper-connections": ("mlp_nano", {"residual": "hyper_connections"}),
    "Poincaré MLP": ("poincare_mlp_nano", {}),
    "Poincaré ResNet, gyro AttnRes": (
        "poincare_resnet_nano",
        {"residual": "gyro_block_attnres"},
    ),
    "LDLᵀ MLP": ("ldlt_mlp_tiny", {}),
    "LDLᵀ ResNet": ("ldlt_resnet_tiny", {}),
    "Sandwich MLP": ("sandwich_mlp_tiny", {}),
    "SLL ResNet": ("sll_resnet_tiny", {}),
    "orthogonal ResNet": ("ldlt_resnet_tiny", {"block": "orthogonal"}),
    "AOL MLP": ("aol_mlp_tiny", {}),
    "ViT, SLTrain": ("vit_nano", {"lowrank": "sltrain"}),
    "ResNet, Maestro": ("resnet_nano", {"lowrank": {"name": "maestro"}}),
}
QUICK = ("MLP, deep delta", "LDLᵀ MLP")


def trained(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Move every parameter off its start, and let batch norms see the inputs."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        model.train()
        for _ in range(20):
            model(inputs)
    return model.eval()


@contextlib.contextmanager
def loaded(runtime: str, path: Path, data: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """A child that has loaded a file, with what it found."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONPATH"] = os.pathsep.join(
        part
        for part in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if part and not (Path(part) / "archzoo").exists()
    )
    words = [sys.executable, "-P", str(LOADER), runtime, str(path), str(data)]
    with subprocess.Popen(
        words,
        cwd=path.parent,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"the loader of {path.name} ended with {child.wait()}")
        yield json.loads(line), functools.partial(_timed, child)
        child.stdin.close()


def _timed(child: Any, batch: int, calls: int) -> float:
    child.stdin.write(f"{batch} {calls}\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def eager(model: nn.Module, inputs: Tensor) -> Callable[[int, int], float]:
    """Time the model itself."""

    def run(batch: int, calls: int) -> float:
        x = inputs[:batch]
        with torch.inference_mode():
            began = time.perf_counter()
            for _ in range(calls):
                model(x)
        return (time.perf_counter() - began) / calls

    return run


def measure_one(family: str, rounds: int) -> dict[str, Any]:
    """Export, compare and time the model of a family."""
    name, options = FAMILIES[family]
    torch.manual_seed(0)
    model = create_model(name, **options)
    inputs = random_inputs(model, BATCH)
    trained(model, inputs)
    row: dict[str, Any] = {"family": family, "model": name}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as children:
        place = Path(folder)
        began = time.perf_counter()
        dynamic = AXES.get(model_info(name).kind, {0: "batch"})
        export_model(model, inputs, place, dynamic=dynamic, seconds=0.0, decoder=False)
        row["export, s"] = time.perf_counter() - began
        with torch.no_grad():
            expected = model(inputs)
        np.savez(place / "data.npz", inputs=inputs.numpy(), expected=expected.numpy())
        timers: dict[str, Callable[[int, int], float]] = {"eager": eager(model, inputs)}
        for runtime in FORMATS:
            path = place / f"model.{runtime}"
            row[f"{runtime}, KB"] = round(path.stat().st_size / 1000)
            found, timers[runtime] = children.enter_context(
                loaded(runtime, path, place / "data.npz")
            )
            row[f"{runtime} difference"] = max(found["batches"].values())
            row[f"{runtime} loads archzoo"] = bool(found["archzoo"])
        for batch in (1, BATCH):
            clocks: dict[str, list[float]] = {runtime: [] for runtime in timers}
            calls = max(1, int(0.02 / timers["eager"](batch, 3)))
            for i in range(rounds):
                for runtime in timers if i % 2 == 0 else reversed(timers):
                    clocks[runtime].append(timers[runtime](batch, calls))
            for runtime, clock in clocks.items():
                row[f"{runtime}, ms at {batch}"] = 1000 * statistics.median(clock)
    return row


def measure(quick: bool) -> Measurement:
    """Export, compare and time one model of each family."""
    torch.set_num_threads(1)
    rows = [measure_one(family, 3 if quick else 15) for family in (QUICK if quick else FAMILIES)]
    bars = [
        Bar(
            f"{row['family']}, {runtime}: difference / largest output",
            row[f"{runtime} difference"],
            LIMIT,
        )
        for row in rows
        for runtime in FORMATS
    ]
    strangers = sum(row[f"{runtime} loads archzoo"] for row in rows for runtime in FORMATS)
    return rows, [*bars, Bar("files that need archzoo", strangers, 0)]


if __name__ == "__main__":
    main("exported", measure)
