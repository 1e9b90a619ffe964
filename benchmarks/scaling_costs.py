"""What a training step of the scaling study costs: parameters, FLOPs, all arithmetic, and time.

FLOPs are those of matrix products, forward and backward, as `FlopCounterMode` counts them over the
definitions; attention is counted as whole products, without the half that the causal mask leaves
out. Of `add` that is 6 for each weight and byte, and 12 · context · width for each block and byte
(a test compares). Arithmetic adds one operation for each number that an elementwise operation
writes and for each that a reduction reads: what mixing over the depth costs beside products.

A step is that of the runs: forward, backward, clipping and the optimiser of `experiment=scaling`.
Residuals take turns on one thread; a ratio is the median over pairs. Times want a quiet machine.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from archzoo.train.config import RunConfig, options_of, run_config
from archzoo.train.engine.metrics import cross_entropy
from archzoo.train.engine.optim import make_optimizer
from archzoo.zoo import create_model
from harness import Bar, Measurement, interleaved, main, median_ratio
from hydra import compose, initialize_config_module
from runs import register
from scaling_runs import RESIDUALS, SIZES, shape
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Arithmetic", "config_of", "counted", "formula", "model_of", "tokens_of"]


aten = torch.ops.aten
SOFTMAX = {
    *(aten._softmax.default, aten._log_softmax.default, aten._safe_softmax.default),
    *(aten._softmax_backward_data.default, aten._log_softmax_backward_data.default),
}
"""Operations on each number that torch does not tag so."""


class Arithmetic(TorchDispatchMode):
    """A count of numbers that elementwise operations write and reductions read."""

    def __init__(self) -> None:
        """Start at none."""
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        if torch.Tag.pointwise in func.tags or func in SOFTMAX:
            first = out[0] if isinstance(out, tuple) else out
            self.count += first.numel()
        elif torch.Tag.reduction in func.tags:
            self.count += args[0].numel()
        return out


def config_of(size: int, residual: str) -> RunConfig:
    """The config of a point of the study."""
    register()
    overrides = ["experiment=scaling", *shape(size), f"model.residual={residual}"]
    with initialize_config_module("archzoo.conf", version_base="1.3"):
        return run_config(compose("train", overrides=overrides))


def model_of(config: RunConfig) -> nn.Module:
    """The model that a run of a config trains."""
    torch.manual_seed(0)
    facts = {key: config.data[key] for key in ("context_length", "vocab_size")}
    return create_model(config.model["name"], **{**options_of(config.model), **facts})


def tokens_of(config: RunConfig) -> Tensor:
    """A batch of a run's size."""
    shape = (config.trainer.batch_size, config.data["context_length"])
    return torch.randint(config.data["vocab_size"], shape)


def counted(model: nn.Module, tokens: Tensor) -> dict[str, int]:
    """FLOPs and all arithmetic of a forward and backward pass over tokens (B, T)."""

    def once() -> None:
        logits = model(tokens)
        cross_entropy(logits, tokens).backward()
        model.zero_grad(set_to_none=True)

    # In products and a softmax, which the counter knows; a CPU's fused attention it does not.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as flops:
            once()
        with Arithmetic() as arithmetic:
            once()
    total = flops.get_total_flops()
    return {"FLOPs": total, "arithmetic": total + arithmetic.count}


def formula(size: int, config: RunConfig) -> int:
    """FLOPs of a step of `add` on paper."""
    width, depth, length = 8 * size, size, config.data["context_length"]
    hidden = 8 * width // 3
    weights = depth * (4 * width**2 + 3 * width * hidden) + config.data["vocab_size"] * width
    tokens = config.trainer.batch_size * length
    return tokens * (6 * weights + 12 * length * width * depth)


def stepper(config: RunConfig) -> Callable[[], float]:
    """A function that takes one training step and returns its seconds."""
    model = model_of(config)
    optimizer = make_optimizer(model, config.optim)
    tokens = tokens_of(config)

    def step() -> float:
        started = time.perf_counter()
        cross_entropy(model(tokens), tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.trainer.clip_grad or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    return step


def rows_of(size: int, residuals: Sequence[str], repetitions: int) -> list[dict[str, Any]]:
    """A row of each residual at a size."""
    configs = {name: config_of(size, name) for name in residuals}
    steps = {name: stepper(config) for name, config in configs.items()}
    for step in steps.values():
        step()
    times = interleaved(steps, repetitions)
    rows = []
    for name, config in configs.items():
        model = model_of(config)
        rows.append(
            {
                "size": size,
                "residual": name,
                "parameters": sum(p.numel() for p in model.parameters()),
                **counted(model, tokens_of(config)),
                "step, ms": 1e3 * sorted(times[name])[repetitions // 2],
                "step over add": median_ratio(times[name], times["add"]),
            }
        )
    return rows


def measure(quick: bool) -> Measurement:
    """Count and time every size."""
    torch.set_num_threads(1)
    rows, bars = [], []
    for size in SIZES[:1] if quick else SIZES:
        rows += rows_of(size, RESIDUALS, 5 if quick else 11)
        flops = next(r["FLOPs"] for r in rows if (r["size"], r["residual"]) == (size, "add"))
        paper = formula(size, config_of(size, "add"))
        bars.append(Bar(f"FLOPs of add at size {size} over the formula's", flops / paper, 1.0))
    return rows, bars


if __name__ == "__main__":
    main("scaling_costs", measure)
