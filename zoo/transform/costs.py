"""What the weights of a factored model cost at every rank: parameters, MACs, or measured time.

All three speak of the model whose targets are dense as `total`, and of one weight as what it costs
dense and at a rank, so that a search can trade one weight for another.
"""

import copy
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...layers.lowrank import Controller, Factors, merge
from ...layers.modes import evaluating
from .interleaved_times import interleaved_times

__all__ = ["METRICS", "Cost", "Costs", "Metric", "costs_of", "count_macs", "latencies"]

Metric = Literal["parameters", "macs", "latency"]
METRICS: tuple[Metric, ...] = ("parameters", "macs", "latency")

GRID = 8  # ranks at which a layer is timed; between them time is interpolated


@dataclass(frozen=True)
class Cost:
    """What one weight costs dense, and as factors of a rank."""

    dense: float
    at: Callable[[int], float]


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        metric: The unit: numbers, multiply-accumulates of the sample, or seconds for it.
        total: Of the whole model with all targets dense.
        weights: Of each target.
    """

    metric: Metric
    total: float
    weights: Mapping[str, Cost]

    def of(self, ranks: Mapping[str, int]) -> float:
        """Return the cost of the model at these ranks; a weight without one is dense."""
        return self.total + sum(self.saved(name, rank) for name, rank in ranks.items())

    def saved(self, name: str, rank: int) -> float:
        """Return what a rank costs more than the dense weight; less than 0 where it saves."""
        return self.weights[name].at(rank) - self.weights[name].dense


def costs_of(controller: Controller, metric: Metric, sample: Tensor | None = None) -> Costs:
    """Return the costs of a model whose targets are factors.

    Args:
        controller: Of the model; its targets are `Factors`.
        metric: `parameters`, `macs` or `latency`.
        sample: Inputs of one forward pass, for which MACs are counted and time is measured.

    Raises:
        ValueError: an unknown metric, or MACs or latency without a sample.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    model = copy.deepcopy(controller.model).eval()
    if metric == "parameters":
        merge(model)
        total = sum(p.numel() for p in model.parameters())
        return Costs(metric, total, {n: _numbers(f) for n, f in controller.factors().items()})
    if sample is None:
        raise ValueError(f"metric={metric!r} needs sample, the inputs of a forward pass")
    layers = {n: model.get_submodule(n) for n in controller.factors() if ":" not in n}
    shapes = _input_shapes(model, layers, sample)
    found = {n: _raw(f) for n, f in controller.factors().items()}
    timed: dict[Any, Cost] = {}
    for name, layer in layers.items():
        key = (repr(layer), tuple(shapes[name]))  # equal layers are timed once
        if metric == "macs":
            found[name] = _counted(layer, shapes[name])
        elif key not in timed:
            timed[key] = _timed(layer, shapes[name])
        if metric == "latency":
            found[name] = timed[key]
    merge(model)
    total = count_macs(model, sample) if metric == "macs" else latencies([model], sample)[0]
    return Costs(metric, total, found)


def count_macs(model: nn.Module, *inputs: Tensor) -> int:
    """Return the multiply-accumulates of a pass in evaluation: products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with evaluating(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() // 2


def latencies(models: Sequence[nn.Module], sample: Tensor, *, seconds: float = 0.5) -> list[float]:
    """Return the median seconds of each model's forward pass, measured in turns.

    A change of the machine's speed then meets all of them alike.

    Args:
        models: In eval mode, on the device of the sample.
        sample: Their input.
        seconds: About how long each is measured; five passes at least.
    """
    wait = torch.cuda.synchronize if sample.is_cuda else (lambda: None)
    with torch.inference_mode():
        works = [functools.partial(model, sample) for model in models]
        clocks = interleaved_times(works, seconds=seconds, wait=wait)
    return [statistics.median(clock) for clock in clocks]


def _numbers(factors: Factors) -> Cost:
    *batch, rows, columns = factors.shape
    groups = int(torch.tensor(batch).prod()) if batch else 1
    return Cost(groups * rows * columns, lambda rank: groups * rank * (rows + columns))


def _raw(factors: Factors) -> Cost:
    """A parameter that its layer reads as a matrix costs what it did, and forming the product."""
    rows, columns = factors.shape[-2:]
    return Cost(0.0, lambda rank: float(rank * rows * columns))


def _counted(layer: Any, shapes: Sequence[torch.Size]) -> Cost:
    inputs = [torch.empty(shape, device="meta") for shape in shapes]
    single = _at_rank(layer, 1).to("meta")
    dense = layer.to_dense().to("meta")
    per_rank = sum(count_macs(single, x) for x in inputs)
    return Cost(sum(count_macs(dense, x) for x in inputs), lambda rank: rank * per_rank)


def _timed(layer: Any, shapes: Sequence[torch.Size]) -> Cost:
    """Time a layer dense and at ranks below its full one, and interpolate between them."""
    weight = next(layer.parameters())
    full = layer.structure.rank
    grid = sorted({max(1, round(full * i / GRID)) for i in range(1, GRID + 1)})
    models = [layer.to_dense(), *(_at_rank(layer, rank) for rank in grid)]
    sums = [0.0] * len(models)
    for shape in shapes:
        found = latencies(models, weight.new_zeros(shape).normal_(), seconds=0.05)
        sums = [a + b for a, b in zip(sums, found, strict=True)]

    def at(rank: int) -> float:
        if rank <= grid[0]:
            return sums[1]
        above = next(i for i, point in enumerate(grid) if point >= rank)
        low, high = grid[above - 1], grid[above]
        share = (rank - low) / (high - low)
        return (1 - share) * sums[above] + share * sums[above + 1]

    return Cost(sums[0], at)


def _at_rank(layer: nn.Module, rank: int) -> nn.Module:
    shorter = copy.deepcopy(layer)
    structure = shorter.structure
    assert isinstance(structure, Factors)
    structure.truncate(rank)
    return shorter


def _appending(shapes: list[torch.Size]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda _, inputs: shapes.append(inputs[0].shape)


def _input_shapes(
    model: nn.Module, layers: Mapping[str, nn.Module], sample: Tensor
) -> dict[str, list[torch.Size]]:
    """The shapes that every layer reads in one forward pass; several where it is called again."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in layers}
    handles = [
        layer.register_forward_pre_hook(_appending(shapes[name])) for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
