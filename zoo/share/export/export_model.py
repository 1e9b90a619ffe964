"""A model written as files for other runtimes, which are run and compared before they are kept."""

import contextlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ....layers.modes import evaluating
from ...backbones.gpt import GPT
from ..atomic_write import replacing
from .decoding import export_decoder
from .onnx_file import check_extra, write_onnx
from .parity import Runner, check_parity, decoded, difference, measured, onnx_runner, pt2_runner
from .program import BATCH, Axes, export_program

__all__ = ["FORMATS", "TOLERANCE", "Format", "export_model"]

Format = Literal["pt2", "onnx"]
FORMATS: tuple[Format, ...] = ("pt2", "onnx")

TOLERANCE = 1e-4
"""Share of the largest output. Another order of sums in float32 moves outputs by 1e-7 to 1e-5."""

OTHER_BATCHES = (1, 3)
"""Beside that of the sample."""


def export_model(
    model: nn.Module,
    sample: Tensor,
    folder: str | Path,
    *,
    formats: Sequence[Format] = FORMATS,
    dynamic: Axes = BATCH,
    decoder: bool = True,
    tolerance: float = TOLERANCE,
    seconds: float = 0.5,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `model.pt2` and `model.onnx`, of a GPT also `decoder.*`, and what was measured of them.

    Every file is loaded again and run on the sample before it takes its place, at its batch and at
    1 and 3 samples; the decoder is fed the sample as a prompt and then token by token.

    Args:
        model: Of the zoo, or any other that takes one tensor, on the CPU; left as it is.
        sample: Real inputs (B, …).
        folder: Made where it is missing.
        formats: Which files.
        dynamic: Axes of the input that may have another length later, and their names.
        decoder: Whether a model that generates is exported with its cache as well.
        tolerance: By how much outputs may differ, as a share of the largest.
        seconds: About how long each is timed at batch 1 and at the sample's; 0 is five passes.
        about: Further facts for `export.json`.

    Returns:
        What `export.json` holds: inputs and outputs, differences, milliseconds, versions.

    Raises:
        ValueError: no sample, an unknown format, a graph that cannot be made, a missing extra, or
            outputs that differ. Nothing is written then.
        OSError: the disk refused; what was in the folder is untouched.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"formats must name some of {', '.join(FORMATS)}, got {list(formats)}")
    if not len(sample):
        raise ValueError("sample holds no inputs, so nothing could be compared; give one at least")
    if "onnx" in formats:
        check_extra()
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {**(about or {}), "formats": list(formats), "tolerance": tolerance}
    with evaluating(model), torch.no_grad(), contextlib.ExitStack() as written:
        # Entered first, so that it takes its place last: where it is, the others are.
        summary = written.enter_context(replacing(place / "export.json"))
        program = export_program(model, sample, dynamic=dynamic)
        opened = _write(written, place, "model", program, formats, ["input"], ["output"], facts)
        rows = _compared(model, opened, sample)
        facts["input"] = _described(sample, dynamic)
        facts["output"] = _described(model(sample[:1]), dynamic)
        if decoder and isinstance(model, GPT):
            rows += _decoder(written, place, model, sample, formats, facts)
        check_parity(type(model).__name__, rows, tolerance)
        facts["parity"] = rows
        facts["milliseconds"] = _times(model, opened, sample, seconds)
        facts["versions"] = _versions(formats)
        summary.write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n")
    return facts


def _write(
    written: contextlib.ExitStack,
    place: Path,
    name: str,
    program: ExportedProgram,
    formats: Sequence[Format],
    inputs: Sequence[str],
    outputs: Sequence[str],
    facts: dict[str, Any],
) -> dict[str, Runner]:
    """Write a program in every format beside its place, and open what was written."""
    opened: dict[str, Runner] = {}
    if "pt2" in formats:
        path = written.enter_context(replacing(place / f"{name}.pt2"))
        with open(path, "wb") as file:
            torch.export.save(program, file)
        opened["pt2"] = pt2_runner(path)
    if "onnx" in formats:
        path = written.enter_context(replacing(place / f"{name}.onnx"))
        facts["opset"] = write_onnx(program, path, inputs, outputs)
        opened["onnx"] = onnx_runner(path)
    return opened


def _compared(model: nn.Module, opened: Mapping[str, Runner], sample: Tensor) -> list[Any]:
    rows = []
    for batch in dict.fromkeys((*OTHER_BATCHES, len(sample))):
        x = sample[torch.arange(batch) % len(sample)]
        expected = model(x)
        for runtime, run in opened.items():
            found = run(x)[0]
            rows.append({"runtime": runtime, "batch": batch, **difference(expected, found)})
    return rows


def _decoder(
    written: contextlib.ExitStack,
    place: Path,
    model: GPT,
    sample: Tensor,
    formats: Sequence[Format],
    facts: dict[str, Any],
) -> list[dict[str, Any]]:
    """Write the decoder, and compare a text fed piece by piece with the model's on all of it."""
    program, step = export_decoder(model)
    inputs = ["tokens", "position", *step.names]
    outputs = ["logits", *(f"new_{name}" for name in step.names)]
    opened = _write(written, place, "decoder", program, formats, inputs, outputs, facts)
    facts["decoder"] = {
        "inputs": inputs,
        "outputs": outputs,
        "empty": [list(x.shape) for x in step.empty(1)],
        "context_length": model.context_length,
    }
    tokens = sample[:, : model.context_length]
    expected, prompt = model(tokens), max(1, tokens.shape[1] // 2)
    return [
        {
            "runtime": f"{runtime} decoder",
            "batch": len(tokens),
            **difference(expected, decoded(run, step, tokens, prompt)),
        }
        for runtime, run in opened.items()
    ]


def _described(x: Tensor, dynamic: Axes) -> dict[str, Any]:
    shape = [dynamic.get(axis, n) for axis, n in enumerate(x.shape)]
    return {"shape": shape, "dtype": str(x.dtype).removeprefix("torch.")}


def _times(
    model: nn.Module, opened: Mapping[str, Runner], sample: Tensor, seconds: float
) -> list[dict[str, Any]]:
    runners: dict[str, Runner] = {"eager": lambda x: (model(x),), **opened}
    return [
        {"batch": batch, **measured(runners, sample[:batch], seconds)}
        for batch in dict.fromkeys((1, len(sample)))
    ]


def _versions(formats: Sequence[Format]) -> dict[str, Any]:
    """What the figures depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if "onnx" in formats:
        found |= {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    return {**found, "threads": torch.get_num_threads()}
