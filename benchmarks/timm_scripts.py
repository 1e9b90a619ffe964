"""timm's own scripts on our names: train, validate, inference, benchmark, onnx_export.

They are run as they are, each in a forked child that has called `register_with_timm`, from a clone
whose folder the environment variable ARCHZOO_TIMM names:

    git clone https://github.com/huggingface/pytorch-image-models

`inference.py` wants pandas, `onnx_export.py` onnx; where one is missing the cell says so. A cell is
the exit code, 0 where all went well; `--quick` runs a model of each class. torch's exporter to
ONNX fails on the Lipschitz networks: those cells are refusals. It takes more than a minute for a
deep network with a history in the ball, which is not tried.
"""

import importlib.util
import os
import runpy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forked_command import call
from harness import Bar, Measurement, main
from PIL import Image

QUICK = ["vit_nano", "resnet_nano", "poincare_resnet_nano", "ldlt_resnet_nano"]
MORE = [
    *("vit_nano_block_attnres", "hyperbolic_vit_head_nano", "resnet20_block_attnres"),
    *("euclidean_resnet_tiny", "euclidean_resnet_tiny_poincare_head", "poincare_resnet_tiny"),
    *("poincare_resnet20_gyro_attnres", "sll_resnet_nano", "resnet20"),
]
LAST = "--channels-last"
HALF = ["--model-dtype", "bfloat16"]
NEEDS = {"inference": ["pandas"], "onnx_export": ["onnx", "onnxscript"]}
SECONDS = 60.0
REFUSED = {("ldlt_resnet_nano", "onnx_export"), ("sll_resnet_nano", "onnx_export")}
NOT_TRIED = {("poincare_resnet20_gyro_attnres", "onnx_export")}


def jobs(name: str, data: Path, out: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the name of a column, the script and its arguments, in an order in which they work."""
    model = ["--model", name]
    loading = ["-b", "4", "-j", "0", "--device", "cpu"]
    train = ["--data-dir", str(data), *model, "--num-classes", "2", "--epochs", "1", *loading]
    train += ["--opt", "adamw", "--no-prefetcher", "--layer-decay", "0.7", "--output", str(out)]
    yield "train", "train", [*train, "--experiment", "plain"]
    yield "train NHWC", "train", [*train, LAST, "--experiment", "last"]
    yield "train bf16", "train", [*train, *HALF, "--experiment", "half"]
    weights = ["--checkpoint", str(out / "plain" / "last.pth.tar"), "--num-classes", "2"]
    validate = ["--data-dir", str(data), *model, *loading, *weights, "--no-prefetcher"]
    yield "validate", "validate", validate
    yield "validate NHWC", "validate", [*validate, LAST]
    yield "validate bf16", "validate", [*validate, *HALF]
    infer = ["--data-dir", str(data / "val"), *model, *loading, *weights]
    infer += ["--results-dir", str(out), "--results-format", "csv"]
    yield "inference", "inference", infer
    yield "inference bf16", "inference", [*infer, *HALF, LAST]
    bench = [*model, "-b", "4", "--device", "cpu", "--num-bench-iter", "5", "--num-warm-iter", "1"]
    yield "benchmark", "benchmark", [*bench, "--bench", "both"]
    half = ["--precision", "bfloat16", LAST, "--bench", "both"]
    yield "benchmark bf16 NHWC", "benchmark", [*bench, *half]
    onnx = [str(out / "model.onnx"), *model, *weights, "--batch-size", "2"]
    yield "onnx_export", "onnx_export", [*onnx, "--dynamo"]


def script(root: Path, name: str) -> Callable[[], Any]:
    """Return what runs a script as the command line does, with our names known to timm."""

    def run() -> None:
        warnings.simplefilter("ignore")  # what timm's scripts and exporters say of torch
        runpy.run_path(str(root / f"{name}.py"), run_name="__main__")

    return run


def pictures(folder: Path) -> None:
    """Write eight pictures of noise for each of two classes, to train on and to validate."""
    numbers = np.random.default_rng(0)
    for part in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (folder / part).mkdir(parents=True)
        for i in range(8):
            pixels = numbers.integers(0, 256, (40, 36, 3), np.uint8)
            # Names of their own: inference.py indexes by them.
            Image.fromarray(pixels).save(folder / part / f"{part[-3:]}{i}.png")


def measure(quick: bool) -> Measurement:
    """Run every script on every name, and count the cells that are not 0."""
    place = os.environ.get("ARCHZOO_TIMM")
    if place is None or not (Path(place) / "train.py").is_file():
        return [], [], [f"ARCHZOO_TIMM={place} holds no clone of timm"]
    import timm
    from archzoo.zoo import register_with_timm

    register_with_timm()
    torch.set_num_threads(1)
    root = Path(place).resolve()
    rows, failed, said = [], 0, []
    for name in QUICK if quick else QUICK + MORE:
        row: dict[str, Any] = {"model": name}
        with tempfile.TemporaryDirectory() as folder:
            pictures(Path(folder) / "data")
            for column, which, given in jobs(name, Path(folder) / "data", Path(folder) / "out"):
                missing = [m for m in NEEDS.get(which, []) if importlib.util.find_spec(m) is None]
                if missing or (name, column) in NOT_TRIED:
                    row[column] = f"no {missing[0]}" if missing else "not tried"
                    continue
                work = Path(folder) / column.replace(" ", "_")
                work.mkdir()
                ended = call(f"{which}.py", script(root, which), given, work, SECONDS)
                row[column] = ended.code
                if ended.code != 0 and (name, column) in REFUSED:
                    row[column] = "refused"
                elif ended.code != 0:
                    failed += 1
                    lines = ended.errors.strip().splitlines() or [""]
                    said.append(f"{name}, {column}: {lines[-1][:300]}")
        rows.append(row)
    said.append(f"timm {timm.__version__}")
    return rows, [Bar("scripts that failed on our names", failed, 0)], said


if __name__ == "__main__":
    main("timm_scripts", measure)
