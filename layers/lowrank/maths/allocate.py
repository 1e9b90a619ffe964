"""Spend a budget over layers: choose one candidate for each, of least total cost.

    minimise  Σ_l cost_l(c_l)    subject to    Σ_l size_l(c_l) ≤ budget

`allocate` is exact, `threshold` is the solution of the relaxed problem: the choice that minimises
Σ cost + price · Σ size at the lowest price it can pay. That is the best choice at its own size, and
may leave some of the budget unspent. Where costs are convex in size, as the errors of truncated
SVDs are, it keeps every component that saves more than the price.

Source: dynamic programming over layers as in Xu et al. 2023, "Efficient Joint Optimization of
Layer-Adaptive Weight Pruning in Deep Neural Networks", arXiv:2308.10438; the relaxation is that of
Everett (1963).
Differs from it: states are the undominated pairs of size and cost instead of a grid of budgets, so
sizes may be any numbers, and states that the relaxation proves too dear are dropped.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["allocate", "threshold"]

Table = Sequence[Sequence[float]]

ROUNDING = 1e-12
"""Share of a budget by which sums of sizes may be off; whole numbers below 1e12 are exact."""


def allocate(costs: Table, sizes: Table, budget: float) -> list[int]:
    """Return the index of the chosen candidate of every layer; of equal costs the smaller size.

    Time and memory grow with the number of undominated states, at most one for every size up to
    the budget.

    Args:
        costs: cost_l(c) for every layer l and candidate c; finite.
        sizes: size_l(c) ≥ 0, likewise.
        budget: Of the sum of sizes.

    Raises:
        ValueError: tables that do not fit each other, or a budget below the smallest choice.
    """
    tables = _tables(costs, sizes)
    budget = budget + ROUNDING * abs(budget)
    filled, price = _relaxed(tables, budget, fill=True)
    upper = sum(float(cost[c]) for (cost, _), c in zip(tables, filled, strict=True))
    reduced = [float((cost + price * size).min()) for cost, size in tables]
    rest = sum(reduced)
    tolerance = ROUNDING * (abs(upper) + sum(abs(r) for r in reduced) + price * abs(budget))

    state_size, state_cost = torch.zeros(1, dtype=torch.float64), torch.zeros(1).double()
    choices: list[tuple[Tensor, Tensor]] = []
    for (cost, size), least in zip(tables, reduced, strict=True):
        rest -= least
        total_size = (state_size[:, None] + size).flatten()
        total_cost = (state_cost[:, None] + cost).flatten()
        # No completion of a state costs less than this, by the relaxation at its best price.
        bound = total_cost + rest - price * (budget - total_size)
        alive = ((total_size <= budget) & (bound <= upper + tolerance)).nonzero().squeeze(1)
        alive = alive[total_cost[alive].argsort(stable=True)]
        alive = alive[total_size[alive].argsort(stable=True)]
        ordered = total_cost[alive]
        best = torch.cat([ordered.new_full((1,), torch.inf), ordered.cummin(0).values[:-1]])
        alive = alive[ordered < best]
        state_size, state_cost = total_size[alive], total_cost[alive]
        choices.append((alive // len(cost), alive % len(cost)))
    state = len(state_size) - 1  # sizes grow along the states, so the last one costs least
    chosen: list[int] = []
    for parent, candidate in reversed(choices):
        chosen.append(int(candidate[state]))
        state = int(parent[state])
    return chosen[::-1]


def threshold(costs: Table, sizes: Table, budget: float) -> tuple[list[int], float]:
    """Return the best choice at the lowest affordable price, and that price in cost per size.

    Args:
        costs: As in `allocate`.
        sizes: As in `allocate`.
        budget: As in `allocate`.

    Raises:
        ValueError: as `allocate` does.
    """
    return _relaxed(_tables(costs, sizes), budget + ROUNDING * abs(budget), fill=False)


def _tables(costs: Table, sizes: Table) -> list[tuple[Tensor, Tensor]]:
    shapes = [[len(row) for row in table] for table in (costs, sizes)]
    if shapes[0] != shapes[1] or 0 in shapes[0]:
        raise ValueError(
            f"costs and sizes must have the same candidates, at least one a layer; got {shapes[0]} "
            f"and {shapes[1]} of them"
        )
    pairs = zip(costs, sizes, strict=True)
    found = [tuple(torch.tensor(row, dtype=torch.float64) for row in pair) for pair in pairs]
    for cost, size in found:
        if not (torch.isfinite(cost).all() and torch.isfinite(size).all() and (size >= 0).all()):
            raise ValueError("costs must be finite numbers, and sizes finite and at least 0")
    return found  # type: ignore[return-value]


def _relaxed(
    tables: list[tuple[Tensor, Tensor]], budget: float, *, fill: bool
) -> tuple[list[int], float]:
    """Buy the steps of all lower convex hulls in the order of what they save per size.

    Args:
        tables: Costs and sizes.
        budget: Of the sum of sizes.
        fill: Whether to go on after the first step that is too large, with those that still fit.

    Returns:
        The choice, and what the first step that was too large would have saved per size.
    """
    hulls = [_lower_hull(cost.tolist(), size.tolist()) for cost, size in tables]
    chosen = [hull[0] for hull in hulls]
    spent = sum(float(size[c]) for (_, size), c in zip(tables, chosen, strict=True))
    if spent > budget:
        raise ValueError(f"budget={budget:g} is below the size {spent:g} of the smallest choice")
    steps: list[tuple[float, int, int, float]] = []
    for layer, ((cost, size), hull) in enumerate(zip(tables, hulls, strict=True)):
        for position in range(1, len(hull)):
            before, after = hull[position - 1], hull[position]
            extra = float(size[after] - size[before])
            saved = float(cost[before] - cost[after])
            steps.append((-saved / extra, layer, position, extra))
    price, blocked = 0.0, set()
    for negative, layer, position, extra in sorted(steps):
        if layer in blocked:
            continue
        if spent + extra <= budget:
            spent += extra
            chosen[layer] = hulls[layer][position]
            continue
        price = max(price, -negative)
        if not fill:
            break
        blocked.add(layer)
    return chosen, price


def _lower_hull(cost: list[float], size: list[float]) -> list[int]:
    """Return candidates from the smallest on, along the lower convex hull of (size, cost)."""
    hull: list[int] = []
    for c in sorted(range(len(cost)), key=lambda c: (size[c], cost[c])):
        if hull and cost[c] >= cost[hull[-1]]:
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            steep = (cost[a] - cost[b]) * (size[c] - size[a])
            if steep >= (cost[a] - cost[c]) * (size[b] - size[a]):
                break
            hull.pop()
        hull.append(c)
    return hull
