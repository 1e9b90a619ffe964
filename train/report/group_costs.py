"""What groups cost: measured by `compare`, counted on their models, or timed as they trained."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts.markup import Markup
from .charts.trade_off import Outcome, trade_off_chart
from .learning_curves import METRICS
from .model_views import ModelView
from .run_groups import Group

__all__ = ["COSTS", "Cost", "costs_of_group", "trade_offs"]


@dataclass(frozen=True)
class Cost:
    """A kind of cost.

    Attributes:
        key: Under which `compare` writes it.
        head: Its name in a table.
        title: Its name on an axis.
        unit: What a value is divided by to be read.
    """

    key: str
    head: str
    title: str
    unit: float = 1.0


COSTS = (
    Cost("parameters", "parameters", "parameters"),
    Cost("trained", "trained", "trained numbers"),
    Cost("macs", "MACs", "MACs a sample"),
    Cost("kept_bytes", "kept, MiB", "kept for the backward pass, MiB", 2.0**20),
    Cost("peak_bytes", "peak, MiB", "peak memory, MiB", 2.0**20),
    Cost("forward_ms", "forward, ms", "forward pass, ms"),
    Cost("step_ms", "step, ms", "forward and backward pass, ms"),
    Cost("decode_ms", "token, ms", "decoding a token, ms"),
    Cost("sample_ms", "training, ms", "training time, ms a sample"),
    Cost("optimizer_bytes", "optimiser, MiB", "kept by the optimiser, MiB", 2.0**20),
)

OF_ADAPTERS = ("trained", "optimizer_bytes")
"""What the result of a run with an adapter says of it."""


def costs_of_group(group: Group, view: ModelView | None) -> dict[str, float]:
    """The costs of a group that are known, by key, in the units that a reader reads.

    What `compare` measured comes first; parameters and MACs are otherwise counted on the model. The
    training time of a sample is the median over what the group's runs logged; what is trained of an
    adapter, and kept for it, is the median over their results.
    """
    found: dict[str, float] = {}
    told = [run.result["adapter"] for run in group.ended if run.result and "adapter" in run.result]
    measured: Mapping[str, Any] = next((run.costs for run in group.runs if run.costs), {})
    for cost in COSTS:
        value = measured.get(cost.key)
        value = value.get("median") if isinstance(value, Mapping) else value
        if cost.key in OF_ADAPTERS and (values := [t[cost.key] for t in told if cost.key in t]):
            value = statistics.median(values)
        if isinstance(value, (int, float)):
            found[cost.key] = value / cost.unit
    if view is not None:
        found.setdefault("parameters", view.parameters)
        found.setdefault("macs", view.macs)
    speeds = [v for run in group.runs for v in run.curve("train", "samples_per_second").values()]
    speeds = [speed for speed in speeds if speed > 0]
    if speeds:
        found["sample_ms"] = 1e3 / statistics.median(speeds)
    return found


def trade_offs(groups: Sequence[Group], costs: Sequence[Mapping[str, float]]) -> list[Markup]:
    """Charts of the test metric against every cost that at least two groups have and differ in."""
    charts = []
    for metric, (label, scale) in METRICS.items():
        chosen = [
            (group, cost, tested)
            for group, cost in zip(groups, costs, strict=True)
            if group.metric == metric and (tested := group.tested()) is not None
        ]
        for kind in COSTS:
            outcomes = [
                Outcome(g.label, cost[kind.key], scale * t.mean, scale * t.deviation, g.index)
                for g, cost, t in chosen
                if kind.key in cost
            ]
            if len({outcome.cost for outcome in outcomes}) > 1:
                charts.append(
                    trade_off_chart(
                        f"Against {kind.title.partition(',')[0]}",
                        outcomes,
                        kind.title,
                        f"test {label}",
                        less_is_better=metric == "bits_per_byte",
                    )
                )
    return charts
