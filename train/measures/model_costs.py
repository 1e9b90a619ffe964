"""What models cost to store and to run: parameters, multiply-accumulates, and measured time."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...layers.lowrank import FactoredConv2d
from ...zoo.transform.costs import count_macs, latencies
from ...zoo.transform.plain_layers import plain_layers

__all__ = ["COUNTED", "TIMED", "model_costs"]

COUNTED = ("parameters", "convolution parameters", "MACs")
"""What is counted of a model."""

TIMED = (1, 64)
"""Batch sizes at which models are timed."""


def model_costs(
    models: Mapping[str, nn.Module], sample: Tensor, *, seconds: float
) -> dict[str, dict[str, Any]]:
    """Count models, and time them side by side, with plain layers in the place of factored ones.

    Args:
        models: In eval mode on the CPU, by whatever they are to be called.
        sample: Inputs of all of them, as many as the largest of `TIMED`.
        seconds: How long each model is timed at each batch size.

    Returns:
        By the same names, `COUNTED` and `latency`: rows of batch and milliseconds.
    """
    found: dict[str, dict[str, Any]] = {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "convolution parameters": _convolution_parameters(model),
            "MACs": count_macs(model, sample[:1]),
            "latency": [],
        }
        for name, model in models.items()
    }
    for batch in TIMED:
        fast = [plain_layers(model) for model in models.values()]
        times = latencies(fast, sample[:batch], seconds=seconds)
        for row, each in zip(found.values(), times, strict=True):
            row["latency"].append({"batch": batch, "milliseconds": 1000 * each})
    return found


def _convolution_parameters(model: nn.Module) -> int:
    """Numbers of all kernels, dense and factored."""
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            count += module.weight.numel()
        elif isinstance(module, FactoredConv2d):
            count += module.structure.parameter_count()
    return count
