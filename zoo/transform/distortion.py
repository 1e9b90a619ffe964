"""What a compressed weight does to the outputs of its model: measured, or estimated by gradients.

    D_l(r) = E ‖z(x) - z(x; weight l at rank r)‖²       z: outputs of the model, over some batches

`output_curves` measures D of every weight at a ladder of ranks. `output_gains` is its first order,
one backward pass a batch: E ‖∂z/∂y_l‖² / rows is what multiplies the error of y_l. Budgets that add
errors of different weights trust that Σ_l D_l is the distortion of all together; `additivity` says
how far that is so.

Source: Xu et al. 2023, "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep
Neural Networks", arXiv:2308.10438.
Differs from it: ranks instead of pruned shares, at most 24 of them, with the logarithm of D
interpolated between; D falls with the rank by isotonic regression, and the raw values are kept.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...layers.lowrank import forward_batch, structures
from ...layers.lowrank.replace_module import replace_module
from ...layers.modes import evaluating

__all__ = [
    "Additivity",
    "additivity",
    "distortion",
    "falling",
    "ladder",
    "output_curve",
    "output_gains",
    "outputs_of",
]

Forward = Callable[[nn.Module, Any], Any]

MOST_RANKS = 24


class Additivity(NamedTuple):
    """Distortions of the outputs: of all compressed weights together, and of each alone."""

    joint: float
    single: dict[str, float]

    @property
    def ratio(self) -> float:
        """Distortion of all together over the sum of those of each: 1 where they add."""
        total = sum(self.single.values())
        return self.joint / total if total else math.nan


def ladder(highest: int, most: int = MOST_RANKS) -> list[int]:
    """Return ranks from 1 to the highest, all of them or so many at even ratios."""
    if highest <= most:
        return list(range(1, highest + 1))
    ratio = highest ** (1 / (most - 1))
    return sorted({max(1, round(ratio**i)) for i in range(most)} | {highest})


def falling(values: Sequence[float]) -> list[float]:
    """Return the nearest sequence, in least squares, that nowhere rises (isotonic regression)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [value for value, count in pools for _ in range(count)]


def output_curve(full_rank: int, measured: Mapping[int, float]) -> Tensor:
    """Return D at all ranks 0 to K, from some that were measured.

    Args:
        full_rank: K, where D is 0.
        measured: D at some ranks from 1 on.

    Returns:
        (K + 1,), falling; below the lowest measured rank that one's, and linear to 0 where the
        logarithm has no value.
    """
    ranks = sorted(measured)
    values = falling([measured[rank] for rank in ranks])
    points = [(0, values[0]), *zip(ranks, values, strict=True)]
    if ranks[-1] < full_rank:
        points.append((full_rank, 0.0))
    curve = torch.zeros(full_rank + 1, dtype=torch.float64)
    for (low, a), (high, b) in zip(points, points[1:], strict=False):
        share = torch.linspace(0, 1, high - low + 1, dtype=torch.float64)
        if a > 0 and b > 0:
            part = torch.exp((1 - share) * math.log(a) + share * math.log(b))
        else:
            part = (1 - share) * a + share * b
        curve[low : high + 1] = part
    curve[full_rank] = 0.0
    return curve


def outputs_of(model: nn.Module, batches: Iterable[Any], forward: Forward) -> list[Tensor]:
    """Return what a model makes of every batch, in evaluation.

    Raises:
        ValueError: outputs that are no tensor.
    """
    found = []
    with evaluating(model), torch.no_grad():
        for batch in batches:
            z = forward(model, batch)
            if not isinstance(z, Tensor):
                raise ValueError(
                    f"the model returns a {type(z).__name__}; pass forward= that returns a tensor"
                )
            found.append(z.detach())
    return found


def distortion(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the mean over samples, along the first axis, of ‖z - z'‖²."""
    total, count = 0.0, 0
    for z, other in zip(found, expected, strict=True):
        total += float((z.double() - other.double()).square().sum())
        count += len(z)
    return total / count


def output_gains(
    model: nn.Module,
    batches: Iterable[Any],
    names: Sequence[str],
    *,
    forward: Forward = forward_batch,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return what multiplies the mean squared error of each layer's outputs, to first order.

    Without a loss it is E ‖∂z/∂y‖² / rows, estimated by one random direction of z a sample: the
    Fisher information of outputs with noise of unit variance. With one it is the same of the loss.

    Args:
        model: Left as it was.
        batches: Anything that `forward` takes.
        names: Of layers.
        forward: Calls the model on a batch and returns a tensor with samples first.
        loss: Returns the summed loss of a batch, instead.
        seed: Of the directions.

    Raises:
        ValueError: no batches, or a layer that the outputs do not depend on.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, args: Any, y: Tensor) -> Tensor:
            y = y if y.requires_grad else y.detach().requires_grad_()
            seen[name].append(y)
            return y.clone()  # which an activation in place may overwrite

        return hook

    handles = [model.get_submodule(n).register_forward_hook(watch(n)) for n in names]
    sums, samples = dict.fromkeys(names, 0.0), 0
    try:
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                seen.update({name: [] for name in names})
                if loss is None:
                    z = forward(model, batch)
                    draw = torch.randn(z.shape, generator=generator, dtype=torch.float64)
                    samples, value = samples + len(z), (draw.to(z) * z).sum()
                else:
                    value = loss(model, batch)
                    samples += len(batch[0] if isinstance(batch, (tuple, list)) else batch)
                for name in names:
                    if not seen[name]:
                        raise ValueError(f"{name} did not run in the forward pass")
                flat = [y for name in names for y in seen[name]]
                parts = iter(torch.autograd.grad(value, flat, allow_unused=True))
                for name in names:
                    for y in seen[name]:
                        gradient = next(parts)
                        if gradient is None:
                            raise ValueError(f"the outputs do not depend on {name}")
                        rows = y.shape[1] if y.dim() == 4 else y.shape[-1]
                        sums[name] += float(gradient.double().square().sum()) / rows
    finally:
        for handle in handles:
            handle.remove()
    if not samples:
        raise ValueError("batches is empty: there are no outputs to look at")
    return {name: value / samples for name, value in sums.items()}


def additivity(
    model: nn.Module,
    small: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward = forward_batch,
) -> Additivity:
    """Measure what the compressed weights do to the outputs together, and each alone.

    Args:
        model: Dense; left as it is.
        small: What a compression made of it, with layers of the same names.
        batches: Anything that `forward` takes.
        forward: As in `collect_moments`; returns a tensor with samples first.

    Raises:
        ValueError: no batches, or a model without the layers of the other.
    """
    data = list(batches)
    if not data:
        raise ValueError("batches is empty: there are no outputs to compare")
    expected = outputs_of(model, data, forward)
    joint = distortion(outputs_of(small, data, forward), expected)
    single = {}
    for name, layer, _ in structures(small):
        if ":" in name:
            continue
        work = copy.deepcopy(model)
        if name not in dict(work.named_modules()):
            raise ValueError(
                f"the dense model has no layer {name!r}; give the one that was made smaller"
            )
        replace_module(work, work.get_submodule(name), copy.deepcopy(layer))
        single[name] = distortion(outputs_of(work, data, forward), expected)
    return Additivity(joint, single)
