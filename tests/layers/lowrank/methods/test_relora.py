"""Laws of ReLoRA: merges never move the map, and each of them frees another r ranks."""

import copy
from math import ceil

import pytest
import torch
from archzoo.layers.lowrank import ReLoRA, StepAdamW, merge, reparametrize
from torch import nn

from ..lowrank_runs import MakeOptimizer, begin, differing, network, run, take_step


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def step_adamw(model: nn.Module) -> StepAdamW:
    return StepAdamW(model.parameters(), lr=0.01)


def often() -> ReLoRA:
    return ReLoRA(rank=2, merge_every=4, rewarm=2)


@pytest.mark.parametrize("merge_every", [0, 3])
def test_it_starts_exactly_at_the_given_weights(merge_every: int) -> None:
    model, before = network(), network()
    reparametrize(model, ReLoRA(rank=2, merge_every=merge_every), ["0", "3"])
    for place in (0, 3):
        assert torch.equal(model[place].weight, before[place].weight)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x), before(x), rtol=0, atol=1e-14)


def test_after_q_merges_the_change_has_a_rank_of_at_most_q_plus_one_times_r() -> None:
    model, controller, optimizer = begin(often(), adamw)
    start = {name: s.dense().detach() for name, s in controller.structures()}
    reached = 0
    for step in range(12):
        take_step(model, optimizer, step)
        for name, structure in controller.structures():
            change = structure.dense().detach() - start[name]
            # Products of rank 2 lie above 1e-4 here, what float64 rounds of a matrix below 1e-14.
            rank = int(torch.linalg.matrix_rank(change, atol=1e-10, rtol=0.0))
            assert rank <= 2 * ceil((step + 1) / 4)
            reached = max(reached, rank)
    assert reached == 6


def test_a_merge_keeps_the_map_and_starts_factors_and_optimiser_anew() -> None:
    model, controller, optimizer = begin(often(), adamw)
    for step in range(3):
        take_step(model, optimizer, step)
    structures = controller.factors()
    before = {name: s.right.detach().clone() for name, s in structures.items()}
    twin = copy.deepcopy(model)
    controller.twins.append(twin)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    averaged = twin(x)
    # One more step with a rate of zero, so that nothing but the merge could move the map.
    outputs = model(x)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_step(model, optimizer, 3)
    torch.testing.assert_close(model(x), outputs, rtol=0, atol=1e-13)
    torch.testing.assert_close(twin(x), averaged, rtol=0, atol=1e-13)
    for name, structure in structures.items():
        assert not structure.left.any() and not torch.equal(structure.right, before[name])
        assert structure.right.abs().max() <= structure.shape[-1] ** -0.5
        assert structure.left not in optimizer.state and structure.right not in optimizer.state
        assert torch.equal(next(controller.twins_of(name)).right, structure.right)  # type: ignore
    take_step(model, optimizer, 4)
    assert optimizer.state[structures["3"].left]["step"] == 1
    assert optimizer.state[model[5].weight]["step"] == 5  # no target: as it was


def test_both_factors_learn_in_the_second_step_after_a_start() -> None:
    model, controller, optimizer = begin(often(), adamw)
    structure = controller.factors()["3"]
    right = structure.right.detach().clone()
    take_step(model, optimizer, 0)
    assert structure.left.any() and structure.right.grad is not None
    assert not structure.right.grad.any()  # B was zero
    take_step(model, optimizer, 1)
    assert structure.right.grad.any() and not torch.equal(structure.right, right)


def test_the_learning_rate_climbs_back_after_a_merge_only() -> None:
    controller = reparametrize(network(), ReLoRA(rank=2, merge_every=6, rewarm=3), ["3"])
    factors = []
    for step in range(15):
        controller.step = step
        factors.append(controller.method.learning_rate_factor(controller))
    third = [1 / 3, 2 / 3, 1.0]
    assert factors == pytest.approx([1.0] * 6 + third + [1.0] * 3 + third)


@pytest.mark.parametrize("settings", [{"merge_every": 0}, {"merge_every": 50}])
def test_without_a_merge_the_frozen_matrix_stays_bit_by_bit(settings: dict) -> None:
    model, controller, optimizer = begin(ReLoRA(rank=2, **settings), adamw)
    before = {name: s.extra.dense().clone() for name, s in controller.factors().items() if s.extra}
    for step in range(6):
        take_step(model, optimizer, step)
    for name, structure in controller.factors().items():
        assert structure.extra is not None
        assert torch.equal(structure.extra.dense(), before[name])


@pytest.mark.parametrize("make", [adamw, step_adamw])
@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_run_that_goes_on_from_its_files_equals_one_that_never_stopped(
    step: int, make: MakeOptimizer
) -> None:
    assert not differing(run(often, make, 10)[0], run(often, make, 10, step)[0])


def test_the_weights_of_two_processes_with_one_seed_stay_equal() -> None:
    assert not differing(run(often, adamw, 9)[0], run(often, adamw, 9)[0])


def test_merging_gives_the_model_back_with_the_same_outputs() -> None:
    model, _, optimizer = begin(often(), adamw)
    for step in range(6):
        take_step(model, optimizer, step)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    before = model(x)
    merge(model)
    assert model.state_dict().keys() == network().state_dict().keys()
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-13)


def test_a_share_of_the_run_is_as_many_steps_and_needs_its_length() -> None:
    shared = ReLoRA(rank=2, merge_every=0.25, rewarm=2, total_steps=16)
    assert not differing(run(lambda: shared, adamw, 9)[0], run(often, adamw, 9)[0])
    controller = reparametrize(network(), ReLoRA(rank=2, merge_every=0.25), ["3"])
    with pytest.raises(ValueError, match="merge_every=0.25 needs the length of the run"):
        controller.attach(adamw(controller.model))


BAD = {
    "rank must be": {"rank": 0},
    "scale must be above 0": {"scale": 0.0},
    "merge_every must be at least 1 step": {"merge_every": -1},
    "share of the run in": {"merge_every": 1.5},
    "rewarm must be at least 0": {"rewarm": -1},
    "total_steps must be at least 1": {"total_steps": 0},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items())
def test_bad_settings_are_refused(message: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=message):
        ReLoRA(**settings)
