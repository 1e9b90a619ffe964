"""What all comparisons of adapters share: sizes at equal trained numbers, rates, and rows.

Every preset of the registry takes part, at the size for which it trains about as many numbers as a
LoRA of a given rank; a preset that cannot reach so many has the largest it can have. Where some
weights do not have so many components, the rank is a share of each one's full rank. Beside them
stand all weights and the head alone. The learning rate is the best of a grid by the validation at
seed 0, and the grid is extended while the best lies at its end. The other seeds run at that rate.
"""

import fnmatch
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from archzoo.train.callbacks import Callback, callbacks
from archzoo.train.callbacks.hooks import TrainingRun
from archzoo.zoo import adapt, create_model
from archzoo.zoo.axes.adapters import make_adapter, presets
from archzoo.zoo.network import Network
from runs import Runs, Told, best_rate
from spread import summary, verdict
from torch import Tensor

__all__ = ["Adapted", "Task", "chosen", "methods", "numbers_of", "row", "sized", "told_of"]

RATES = (0.003, 0.01, 0.03)
OUTER = (0.1, 0.3, 1.0, 0.001, 0.0003, 0.0001)
SEEDS = (0, 1, 2)

SETTINGS: dict[str, dict[str, Any]] = {
    "increlora": {"warmup": 0.05, "grow_every": 0.01},
    "remix": {"adapters": 4, "active": 2},
    "smora": {"active": 4},
}
"""Beside the size, which is the first of `SIZES` that a preset takes."""

SIZES: dict[str, Sequence[Any]] = {
    "target_rank": range(1, 65),
    "rank": range(1, 513),
    "share": [round(0.001 * 1.05**place, 5) for place in range(140)],
}

SHARES = [round(0.02 * place, 2) for place in range(1, 51)]
"""Ranks as shares of a weight's full rank."""


@callbacks.register(name="train_only")
class TrainOnly(Callback):
    """Training of some parameters; all others stay as they are.

    Args:
        parameters: Patterns on names.
    """

    def __init__(self, parameters: list[str] | None = None) -> None:
        """Keep the patterns; None is all."""
        self.patterns = ["*"] if parameters is None else parameters

    def start(self, run: TrainingRun) -> None:
        """Freeze what no pattern names."""
        named = dict(run.model.named_parameters())
        kept = {name for p in self.patterns for name in fnmatch.filter(named, p)}
        if not kept:
            raise ValueError(f"callbacks.train_only.parameters={self.patterns} match nothing")
        for name, parameter in named.items():
            parameter.requires_grad_(name in kept)

    def result(self, run: TrainingRun, model: Network) -> dict[str, Any]:
        """Return what an adapter's result says: trained numbers and bytes of the optimiser."""
        trained = [p for p in run.model.parameters() if p.requires_grad]
        states = [v for state in run.optimizer.state.values() for v in state.values()]
        tensors = [v for v in states if isinstance(v, Tensor)]
        return {
            "adapter": {
                "trained": sum(p.numel() for p in trained),
                "optimizer_bytes": sum(t.numel() * t.element_size() for t in tensors),
            }
        }


@dataclass(frozen=True)
class Task:
    """What adapters are compared on.

    Attributes:
        model: Name of the base, whose weights decide the sizes.
        told: Overrides of a run, without those of a method.
        metric: Of the headline.
        head: Patterns on the parameters of the head.
        batch_size: Samples of a step.
        options: Keywords of the model.
    """

    model: str
    told: Told
    metric: str
    head: Sequence[str]
    batch_size: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Adapted:
    """What a method reached.

    Attributes:
        told: Its overrides, without the rate.
        rate: The best one.
        tried: The validation of every rate at seed 0.
        runs: Results of the seeds at the best rate.
    """

    told: Told
    rate: float
    tried: dict[float, float]
    runs: list[dict[str, Any]]

    def figures(self, fold: str, metric: str) -> list[float]:
        """The metric of every seed."""
        return [one[fold][metric] for one in self.runs]


def numbers_of(name: str, settings: Mapping[str, Any], shapes: Sequence[Any]) -> int:
    """Count what a preset trains beside some targets; 0 where it fits none of them."""
    preset = make_adapter({"name": name, **settings})
    taken = [target.shape for target in shapes if not preset.refuses(target)]
    if name == "increlora":  # what it has trained in the end, and not what it starts with
        return sum((settings["target_rank"] + 1) * (m + n + 1) for *_, m, n in taken)
    return sum(preset.numbers(shape) for shape in taken)


def sized(task: Task, rank: int, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Settings of presets by name, which train about as many numbers as a LoRA of a rank."""
    with torch.device("meta"):
        model = create_model(task.model, **task.options)
    targets = list(adapt(model, "lora", rank=1).targets.values())
    budget = numbers_of("lora", {"rank": rank}, targets)
    found: dict[str, dict[str, Any]] = {}
    for name in names or presets.names():
        options, fixed = presets[name].options, SETTINGS.get(name, {})
        size = next((each for each in SIZES if each in options), None)
        choices = [{}] if size is None else [{size: value} for value in SIZES[size]]
        best = nearest(name, fixed, choices, targets, budget)
        if size == "rank" and best is not None and left_out(name, {**fixed, **best}, targets):
            shares = [{size: value} for value in SHARES]
            best = nearest(name, fixed, shares, targets, budget) or best
        if best is not None:
            found[name] = {**fixed, **best}
    return found


def nearest(
    name: str,
    fixed: Mapping[str, Any],
    choices: Sequence[dict[str, Any]],
    targets: Sequence[Any],
    budget: int,
) -> dict[str, Any] | None:
    """The choice that trains about as many numbers as a budget; None where none is possible."""
    best, distance = None, math.inf
    for choice in choices:
        try:
            numbers = numbers_of(name, {**fixed, **choice}, targets)
        except ValueError:  # a size that the preset or a weight cannot have
            continue
        if numbers and abs(math.log(numbers / budget)) < distance:
            best, distance = choice, abs(math.log(numbers / budget))
    return best


def left_out(name: str, settings: Mapping[str, Any], targets: Sequence[Any]) -> list[str]:
    """Names of the weights whose full rank is below that of a preset."""
    preset = make_adapter({"name": name, **settings})
    return [target.name for target in targets if "full rank" in preset.refuses(target)]


def methods(task: Task, rank: int, names: Sequence[str] | None = None) -> dict[str, Told]:
    """Overrides of all methods by name: all weights, the head alone, and every preset."""
    head = ", ".join(f'"{pattern}"' for pattern in task.head)
    found: dict[str, Told] = {
        "all weights": ("callbacks=[train_only]",),
        "head alone": ("callbacks=[train_only]", f"callbacks.train_only.parameters=[{head}]"),
    }
    for name, settings in sized(task, rank, names).items():
        found[name] = told_of(task, name, settings)
    return found


def told_of(task: Task, name: str, settings: Mapping[str, Any]) -> Told:
    """Overrides of a preset; ReMix compares the two halves of a batch."""
    told = (f"adapter={name}", *(f"adapter.{key}={value}" for key, value in settings.items()))
    told = (*told, "adapter.seed={seed}")
    if name == "remix":
        told = (*told, "trainer.accumulate=2", f"trainer.batch_size={task.batch_size // 2}")
    return told


def chosen(
    runs: Runs,
    task: Task,
    told: Told,
    *,
    rates: Sequence[float] = RATES,
    outer: Sequence[float] = OUTER,
    seeds: Sequence[int] = SEEDS,
    also: Callable[..., Mapping[str, Any]] | None = None,
) -> Adapted:
    """Run a method at the rates of a grid and at the best one for all seeds."""
    more_is_better = task.metric in ("accuracy", "auc")

    def at(rate: float) -> Told:
        return (*task.told, *told, f"optim.lr={rate}")

    def score(rate: float) -> float:
        one = runs.result(at(rate), seeds[0])
        if "diverged" in one:
            return math.inf
        return -one["validation"][task.metric] if more_is_better else one["validation"][task.metric]

    rate, tried = best_rate(score, rates, outer)
    found = [runs.result(at(rate), seed, also) for seed in seeds]
    return Adapted(told, rate, {r: abs(tried[r]) for r in sorted(tried)}, found)


def row(name: str, found: Adapted, reference: Adapted, task: Task) -> dict[str, Any]:
    """One line of the table; lower figures are better in its verdict, so accuracies are negated."""
    figures = found.figures("test", task.metric)
    sign = -1 if task.metric in ("accuracy", "auc") else 1
    others = reference.figures("test", task.metric)
    sizes = [one["adapter"] for one in found.runs]
    return {
        "method": name,
        "settings": ", ".join(
            t.removeprefix("adapter.")
            for t in found.told
            if t.startswith("adapter.") and "{seed}" not in t
        ),
        task.metric: round(summary(figures)[0], 4),
        "standard error": round(summary(figures)[1], 4),
        "seeds": [round(one, 4) for one in figures],
        "against lora": ""
        if found is reference
        else verdict([sign * f for f in figures], [sign * f for f in others]),
        "validation": round(statistics.mean(found.figures("validation", task.metric)), 4),
        "trained": sizes[0]["trained"],
        "optimiser, KiB": round(sizes[0]["optimizer_bytes"] / 1024, 1),
        "step, s": statistics.median(one["step_seconds"] for one in found.runs),
        "rate": found.rate,
        "rates tried": {str(r): round(v, 4) for r, v in found.tried.items()},
        "rate inside the grid": min(found.tried) < found.rate < max(found.tried),
    }
