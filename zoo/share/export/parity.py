"""An exported model beside the one it was made of: differences of outputs, and times."""

import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...transform.interleaved_times import interleaved_times
from .decoding import Decoder
from .program import LONGEST

__all__ = [
    "Runner",
    "check_parity",
    "decoded",
    "difference",
    "measured",
    "onnx_runner",
    "pt2_runner",
]

Runner = Callable[..., tuple[Tensor, ...]]
"""Inputs in, all outputs out."""


def pt2_runner(path: Path) -> Runner:
    """Load a program, and return what runs it."""
    with open(path, "rb") as file:  # a name that does not end in .pt2 is taken for an older format
        program = torch.export.load(file).module()

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = program(*inputs)
        return found if isinstance(found, tuple) else (found,)

    return run


def onnx_runner(path: Path, threads: int | None = None) -> Runner:
    """Open an ONNX file in ONNX Runtime on the CPU, and return what runs it.

    Args:
        path: The file.
        threads: Of the session; None is as many as torch has.

    Raises:
        ValueError: an operator that ONNX Runtime does not have, or not for such types.
    """
    onnxruntime: Any = importlib.import_module("onnxruntime")
    raised: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except (raised.InvalidGraph, raised.NotImplemented, raised.Fail) as error:
        raise ValueError(f"ONNX Runtime refuses the file: {str(error)[:LONGEST]}") from error
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        # What the graph does not read is no input of it.
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, given)))

    return run


def difference(expected: Tensor, found: Tensor) -> dict[str, float]:
    """Return the largest absolute difference, and its share of the largest expected entry."""
    most = float((expected - found).abs().max())
    scale = float(expected.abs().max())
    return {"absolute": most, "relative": most / scale if scale else most}


def decoded(run: Runner, decoder: Decoder, tokens: Tensor, prompt: int) -> Tensor:
    """Return the logits of a text that is fed as a prompt and then token by token.

    Args:
        run: What runs a step.
        decoder: Of the same cache.
        tokens: (B, T).
        prompt: How many tokens are fed at once.
    """
    cache, logits, position = decoder.empty(len(tokens)), [], 0
    for piece in tokens.split([prompt, *[1] * (tokens.shape[1] - prompt)], dim=1):
        found, *cache = run(piece, torch.tensor(position), *cache)
        logits.append(found)
        position += piece.shape[1]
    return torch.cat(logits, 1)


def check_parity(name: str, rows: Sequence[Mapping[str, Any]], tolerance: float) -> None:
    """Refuse an export whose outputs are not those of the model.

    Args:
        name: Of the model.
        rows: A `runtime`, a `batch` and what `difference` found, each.
        tolerance: Largest share of the largest entry.

    Raises:
        ValueError: with the figures of the worst row.
    """
    worst = max(rows, key=lambda row: _order(row["relative"]))
    if not worst["relative"] <= tolerance:  # also where it is no number
        raise ValueError(
            f"{name} as {worst['runtime']} differs from the model by {worst['relative']:.2g} of "
            f"its largest output (absolute {worst['absolute']:.2g}, batch {worst['batch']}), and "
            f"tolerance={tolerance:g}; nothing was written"
        )


def measured(runners: Mapping[str, Runner], sample: Tensor, seconds: float) -> dict[str, float]:
    """Return the median milliseconds of each, measured in turns."""
    with torch.inference_mode():
        works = [lambda run=run: run(sample) for run in runners.values()]
        clocks = interleaved_times(works, seconds=seconds)
    return {
        name: 1000 * statistics.median(clock) for name, clock in zip(runners, clocks, strict=True)
    }


def _order(relative: float) -> float:
    return float("inf") if relative != relative else relative
