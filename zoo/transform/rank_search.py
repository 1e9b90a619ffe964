"""Choose the ranks of a trained model for a budget of parameters, MACs or measured time.

`search_ranks` is greedy on a loss: again and again, the weight whose next components raise the loss
least per unit of cost saved gives them up. `spectrum_ranks` asks the singular values alone: it
keeps as much as it can of the product, over all weights, of the shares of energy that they keep.

Source: the greedy search is that of Horváth et al. 2023, "Maestro: Uncovering Low-Rank Structures
via Trainable Decomposition", arXiv:2308.14929, which evaluates one mini-batch.
Differs from it: a step saves a share of what a weight costs, as weights differ widely in size;
the cost may be measured time; batch norms use the statistics of the mini-batch itself, as they are
estimated anew after the search; and a weight's price is computed again only when it is the lowest,
which saves most evaluations.
"""

import contextlib
import copy
import heapq
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ...layers.lowrank import Controller, Factors, allocate, merge, rank_for_energy, tail_energy
from ...layers.modes import evaluating
from .costs import Costs

__all__ = ["search_ranks", "spectrum_ranks"]

ROUNDING = 1e-6  # components that together hold a smaller share of the energy go at once


def search_ranks(
    controller: Controller,
    costs: Costs,
    budget: float,
    loss: Callable[[nn.Module], float],
    *,
    step: float = 0.2,
) -> dict[str, int]:
    """Return ranks that meet a budget at little loss; weights without one stay dense.

    A weight starts dense. Every step makes it cheaper by a share at least; one component stays.

    Args:
        controller: From `factorize`; left as it is.
        costs: Of its model.
        budget: Of the whole model, in the unit of the costs.
        loss: Evaluates a copy of the model on one mini-batch.
        step: Share of a weight's cost that a step saves, in (0, 1).

    Raises:
        ValueError: a share out of range, or a budget that rank 1 everywhere exceeds.
    """
    if not 0.0 < step < 1.0:
        raise ValueError(f"step must be a share of the cost in (0, 1), got {step}")
    trial = _Trial(controller, loss)
    ladders = {n: _ladder(costs, n, f, step) for n, f in controller.factors().items()}
    _check_budget(costs, budget, {name: ladder[-1] for name, ladder in ladders.items() if ladder})
    ranks: dict[str, int] = {}
    now, done = trial.loss(), 0

    def price(name: str) -> tuple[float, int, str, float]:
        """Loss per unit of cost saved, when that was found out, of what, and the loss itself."""
        rank, before = ladders[name][0], ranks.get(name)
        then = trial.loss(name, rank)
        saved = -costs.saved(name, rank)
        if before is not None:
            saved += costs.saved(name, before)
        return (then - now) / saved, done, name, then

    queue = [price(name) for name, ladder in ladders.items() if ladder]
    heapq.heapify(queue)
    while costs.of(ranks) > budget:
        _, when, name, then = heapq.heappop(queue)
        if when < done:
            heapq.heappush(queue, price(name))
            continue
        ranks[name] = ladders[name].pop(0)
        trial.keep(name, ranks[name])
        now, done = then, done + 1
        if ladders[name]:
            heapq.heappush(queue, price(name))
    return ranks


def spectrum_ranks(controller: Controller, costs: Costs, budget: float) -> dict[str, int]:
    """Return the ranks that keep the most of Π over weights of their kept energy, in a budget.

    A share of the energy is what counts, because a norm behind a layer undoes its scale; and a
    product, because a weight that keeps little harms what all others do.

    Args:
        controller: From `factorize`.
        costs: Of its model.
        budget: Of the whole model, in the unit of the costs.

    Raises:
        ValueError: a budget that the lowest ranks exceed.
    """
    names, choices, errors, sizes = [], [], [], []
    for name, factors in controller.factors().items():
        ladder = [r for r in range(1, factors.allocated + 1) if costs.saved(name, r) < 0]
        tail = tail_energy(factors.importance())
        kept = 1.0 - tail / tail[0] if tail[0] > 0 else torch.ones_like(tail)
        error = (-kept.log()).tolist()
        names.append(name)
        choices.append([*ladder, None])
        errors.append([*(error[r] for r in ladder), 0.0])
        sizes.append([*(costs.weights[name].at(r) for r in ladder), costs.weights[name].dense])
    _check_budget(costs, budget, {n: c[0] for n, c in zip(names, choices, strict=True) if c[0]})
    rest = costs.total - sum(row[-1] for row in sizes)
    chosen = allocate(errors, sizes, budget - rest)
    found = {n: row[c] for n, row, c in zip(names, choices, chosen, strict=True)}
    return {name: rank for name, rank in found.items() if rank is not None}


class _Trial:
    """A copy of the model in which weights are dense until a rank is kept for them."""

    def __init__(self, controller: Controller, loss: Callable[[nn.Module], float]) -> None:
        self.factored = copy.deepcopy(controller.model)
        self.model = copy.deepcopy(controller.model)
        # Matrices inside a parametrised layer cannot be exchanged alone, and stay factored.
        self.whole = {name for name in controller.factors() if ":" not in name}
        merge(self.model, names=self.whole)
        self.parts = {
            name: f for name, f in _structures(self.model, controller) if name not in self.whole
        }
        self.evaluate = loss

    def loss(self, name: str | None = None, rank: int = 0) -> float:
        """Evaluate with one weight at another rank than it has."""
        with torch.no_grad(), _own_statistics(self.model):
            if name is None:
                return self.evaluate(self.model)
            undo = self.keep(name, rank)
            try:
                return self.evaluate(self.model)
            finally:
                undo()

    def keep(self, name: str, rank: int) -> Callable[[], None]:
        """Give a weight a rank; return what takes it back."""
        if name in self.parts:
            factors = self.parts[name]
            before = factors.rank
            factors.rank = rank
            return lambda: setattr(factors, "rank", before)
        old = self.model.get_submodule(name)
        layer = self.factored.get_submodule(name)
        structure = layer.structure
        assert isinstance(structure, Factors)
        previous = structure.rank
        structure.rank = rank
        self.model.set_submodule(name, layer)

        def undo() -> None:
            structure.rank = previous
            self.model.set_submodule(name, old)

        return undo


def _structures(model: nn.Module, controller: Controller) -> Iterator[tuple[str, Factors]]:
    for name in controller.factors():
        path, _, parameter = name.partition(":")
        if parameter:
            face = model.get_submodule(path).parametrizations[parameter][0]  # type: ignore[index]
            yield name, face.structure  # type: ignore[union-attr]


def _ladder(costs: Costs, name: str, factors: Factors, step: float) -> list[int]:
    """Ranks to step down through, each a share cheaper than the last, the dense weight included.

    Steps that save next to nothing would have a price of mere noise.
    """
    ladder, now = [], costs.weights[name].dense
    for rank in range(rank_for_energy(factors.importance(), ROUNDING), 0, -1):
        then = costs.weights[name].at(rank)
        if then <= (1.0 - step) * now or (rank == 1 and then < now):
            ladder.append(rank)
            now = then
    return ladder


def _check_budget(costs: Costs, budget: float, lowest: dict[str, int]) -> None:
    least = costs.of(lowest)
    if least > budget:
        raise ValueError(
            f"the budget of {budget:.4g} {costs.metric} cannot be met: the lowest ranks of all "
            f"weights cost {least:.4g}"
        )


@contextlib.contextmanager
def _own_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms use the statistics of what they see, and keep those they have."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        with evaluating(model, training=norms):
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
