"""Gradient checkpointing under every residual: peak memory and the time of a training step.

A small Vision Transformer of 12 blocks, float32, on a CPU. Peak memory is what torch's allocator
adds in a forward and backward pass, gradients and the residual's state included. Times are those
of the processor, medians over pairs of steps in turn.

    python benchmarks/recomputation.py --check
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from archzoo.train.compare.peak_memory import peak_bytes
from archzoo.zoo import create_model, residuals
from harness import Bar, Measurement, interleaved, main, median_ratio

SIZES = {"width": 192, "depth": 12, "num_heads": 3, "img_size": 32, "patch_size": 4}
BATCH = 8
LIMIT = 0.5  # of the peak without recomputation


def measure(quick: bool) -> Measurement:
    """Measure every residual that the network takes."""
    torch.set_num_threads(1)
    x = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for name in ("add", "attnres", "delta") if quick else residuals.names():
        try:
            model = create_model("vit_tiny", residual=name, num_classes=10, **SIZES)
        except ValueError as error:
            rows.append({"residual": name, "refused": str(error)})
            continue

        def step(enable: bool, model: Any = model) -> Callable[[], float]:
            def once() -> float:
                model.set_grad_checkpointing(enable)
                model.zero_grad(set_to_none=True)
                started = time.process_time()
                model(x).square().mean().backward()
                return time.process_time() - started

            return once

        peaks = {}
        for enable in (False, True):
            step(enable)()  # what is made once, such as a cache, is there before
            model.zero_grad(set_to_none=True)
            peaks[enable] = peak_bytes(step(enable), x.device)
        seconds = interleaved({"plain": step(False), "recomputed": step(True)}, 1 if quick else 3)
        ratio = peaks[True] / peaks[False]
        rows.append(
            {
                "residual": name,
                "peak MiB": peaks[False] / 2**20,
                "recomputed, MiB": peaks[True] / 2**20,
                "of the peak": ratio,
                "step time": median_ratio(seconds["recomputed"], seconds["plain"]),
            }
        )
        bars.append(Bar(f"peak memory with recomputation, {name}", ratio, LIMIT))
    return rows, bars


if __name__ == "__main__":
    main("recomputation", measure)
