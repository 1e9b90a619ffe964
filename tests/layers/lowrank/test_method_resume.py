"""A run goes on from its states, in whatever order they are loaded and the method attached."""

import copy
import itertools
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import Controller, reparametrize
from torch import nn

from ...tiers import tiered
from .lowrank_methods import (
    NAMES,
    OPTIMIZERS,
    PAIRS,
    assert_same,
    checkpoint,
    everything,
    method_of,
    network,
    reparametrized,
    take_step,
    works_with,
)

PARTS = ("model", "optimizer", "controller", "attach")
ORDERS = list(itertools.permutations(PARTS))
STOP, STEPS = 5, 9


def optimizer_of(controller: Controller, kind: str, apart: bool) -> torch.optim.Optimizer:
    """Make an optimiser whose groups keep targets and the rest apart, or one group of all."""
    every = list(controller.model.parameters())
    if not apart:
        return OPTIMIZERS[kind](every)
    own = {id(p) for target in controller.targets.values() for p in target.parameters()}
    inside, rest = ([p for p in every if (id(p) in own) == wanted] for wanted in (True, False))
    return OPTIMIZERS[kind]([{"params": inside}, {"params": rest}])


def whole_run(name: str, kind: str, apart: bool, stop: int = STOP) -> tuple[dict, dict]:
    """Return the checkpoint after some steps, and all of the run at its end."""
    _, controller = reparametrized(name)
    optimizer = optimizer_of(controller, kind, apart)
    controller.attach(optimizer)
    kept: dict[str, Any] = {}
    for step in range(STEPS):
        if step == stop:
            kept = checkpoint(controller, optimizer)
        take_step(controller, optimizer, step)
    return kept, everything(controller, optimizer)


def resumed(name: str, kind: str, apart: bool, kept: dict, order: tuple[str, ...], seed: int = 1):
    """Go on from a checkpoint, which stays as it is, in a fresh network."""
    model, controller = reparametrized(name, seed=seed)
    optimizer = optimizer_of(controller, kind, apart)
    states = copy.deepcopy(kept)
    for part in order:
        if part == "attach":
            controller.attach(optimizer)
        else:
            {"model": model, "optimizer": optimizer, "controller": controller}[
                part
            ].load_state_dict(states[part])
    for step in range(states["controller"]["step"], STEPS):
        take_step(controller, optimizer, step)
    return everything(controller, optimizer)


def kind_for(name: str) -> str:
    return "adamw" if works_with(name, "adamw") else "step_adamw"


@pytest.mark.parametrize("name", tiered(NAMES, NAMES[::2]))
def test_every_order_of_loading_and_attaching_gives_the_same_run(name: str) -> None:
    kept, whole = whole_run(name, kind_for(name), apart=True)
    for order in ORDERS:
        assert_same(resumed(name, kind_for(name), True, kept, order), whole)


@pytest.mark.parametrize("name", tiered(NAMES, NAMES[1::2]))
def test_where_groups_are_split_the_optimiser_is_loaded_after_it_or_not_at_all(name: str) -> None:
    kept, whole = whole_run(name, kind_for(name), apart=False)
    for order in ORDERS:
        if order.index("optimizer") > order.index("attach"):
            assert_same(resumed(name, kind_for(name), False, kept, order), whole)
        else:  # torch's own words: nothing of ours has seen this optimiser
            with pytest.raises(ValueError, match="different number of parameter groups"):
                resumed(name, kind_for(name), False, kept, order)


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(0, STEPS, 2))
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_it_is_so_with_every_optimiser_and_at_every_step(name: str, kind: str, stop: int) -> None:
    kept, whole = whole_run(name, kind, apart=True, stop=stop)
    for order in ORDERS:
        if kind == "step_adamw" and name == "maestro" and stop > 3 and loads_counts_first(order):
            with pytest.raises(ValueError, match="load the model first"):
                resumed(name, kind, True, kept, order)
        else:
            assert_same(resumed(name, kind, True, kept, order), whole)


def loads_counts_first(order: tuple[str, ...]) -> bool:
    return order.index("optimizer") < order.index("model")


def test_counts_of_vectors_that_were_removed_since_ask_for_the_model_first() -> None:
    kept, _ = whole_run("maestro", "step_adamw", apart=True)
    order = ("optimizer", "model", "controller", "attach")
    with pytest.raises(ValueError, match="load the model first"):
        resumed("maestro", "step_adamw", True, kept, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_projection_at_attach_is_taken_back_by_what_is_loaded(
    order: tuple[str, ...], seed: int
) -> None:
    # With seed 0 the network that goes on is the one that began, so values alone tell nothing.
    for stop in (0, 2):
        kept, whole = whole_run("trp", "adamw", apart=True, stop=stop)
        assert_same(resumed("trp", "adamw", True, kept, order, seed=seed), whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_in_memory_stays_what_it_was_while_the_run_goes_on(name: str) -> None:
    _, controller = reparametrized(name)
    optimizer = OPTIMIZERS[kind_for(name)](controller.model.parameters())
    controller.attach(optimizer)
    states = []
    for step in range(STEPS):
        state = controller.state_dict()
        states.append((state, copy.deepcopy(state)))
        take_step(controller, optimizer, step)
    for state, kept in states:
        assert repr(state) == repr(kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_was_loaded_is_not_written_to(name: str) -> None:
    kept, whole = whole_run(name, kind_for(name), apart=True)
    before = repr(kept["controller"])
    model, controller = reparametrized(name, seed=1)
    optimizer = optimizer_of(controller, kind_for(name), apart=True)
    controller.load_state_dict(kept["controller"])
    controller.attach(optimizer)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(copy.deepcopy(kept["optimizer"]))
    for step in range(STOP, STEPS):
        take_step(controller, optimizer, step)
    assert repr(kept["controller"]) == before
    assert_same(everything(controller, optimizer), whole)


@pytest.mark.parametrize("name", NAMES)
def test_the_copy_of_a_run_goes_on_where_it_was(name: str) -> None:
    _, whole = whole_run(name, kind_for(name), apart=True)
    _, controller = reparametrized(name)
    optimizer = optimizer_of(controller, kind_for(name), apart=True)
    controller.attach(optimizer)
    for step in range(STOP):
        take_step(controller, optimizer, step)
    other = copy.deepcopy(controller)
    another = optimizer_of(other, kind_for(name), apart=True)
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.attach(another)
    for step in range(STOP, STEPS):
        take_step(other, another, step)
    assert_same(everything(other, another), whole)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_state_of_a_run_that_never_began_begins_one(name: str, attached: bool) -> None:
    fresh = reparametrized(name)[1].state_dict()
    runs = []
    for load in (False, True):
        _, controller = reparametrized(name)
        optimizer = OPTIMIZERS[kind_for(name)](controller.model.parameters())
        if attached:
            controller.attach(optimizer)
        if load:
            controller.load_state_dict(fresh)
        if not attached:
            controller.attach(optimizer)
        for step in range(4):
            take_step(controller, optimizer, step)
        runs.append(everything(controller, optimizer))
    assert_same(*runs)


def test_a_state_written_before_loading_first_was_possible_is_one_of_a_run() -> None:
    kept, whole = whole_run("trp", "adamw", apart=True)
    del kept["controller"]["started"]
    order = ("controller", "attach", "model", "optimizer")
    assert_same(resumed("trp", "adamw", True, kept, order), whole)


def test_an_optimiser_made_before_the_structures_is_refused_and_left_as_it_was() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = reparametrize(model, method_of("low_rank"), ["0", "3", "5:matrix"])
    with pytest.raises(ValueError, match="after the model was reparametrised"):
        controller.attach(optimizer)
    assert len(optimizer.param_groups) == 1 and "step" not in vars(optimizer)
    controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_start_that_fails_leaves_the_optimiser_as_it_was_and_can_be_repeated() -> None:
    model = network()
    controller = reparametrize(model, method_of("trp"), ["0", "3"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    good = model[3].weight.detach().clone()
    nn.init.constant_(model[3].weight, torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        controller.attach(optimizer)
    assert len(optimizer.param_groups) == 1 and "step" not in vars(optimizer)
    model[3].weight.detach().copy_(good)
    controller.attach(optimizer)
    take_step(controller, optimizer, 0)
    assert controller.step == 1
