"""Laws of presets that act around steps: DyLoRA, CoDyRA, IncreLoRA and SaRA."""

import copy

import pytest
import torch
from archzoo.layers.lowrank.adapters.adapter import adapt
from archzoo.layers.lowrank.adapters.lora import LoRA
from archzoo.layers.lowrank.adapters.scheduled.codyra import CoDyRA, soft_threshold
from archzoo.layers.lowrank.adapters.scheduled.dylora import DyLoRA, NestedFactors
from archzoo.layers.lowrank.adapters.scheduled.increlora import RESERVE, IncreLoRA
from archzoo.layers.lowrank.adapters.scheduled.sara import SaRA, SmallEntries, smallest_entries
from archzoo.layers.lowrank.optim.step_adamw import StepAdamW
from torch import nn

from .adapter_networks import adapted, example, network, train

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale
OPTIMIZERS = [torch.optim.AdamW, StepAdamW, torch.optim.SGD]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(optimizer, parameters):
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    return optimizer(parameters, lr=0.05, weight_decay=0.1, **momentum)


def nested(last=True):
    left, right = drawn(6, 4), drawn(4, 5, seed=1)
    return NestedFactors(left, right, drawn(6, 5, seed=2), alpha=3.0, last=last)


@pytest.mark.parametrize("last", [True, False])
def test_a_sampled_step_of_dylora_has_gradients_where_it_trains_and_zeros_elsewhere(last):
    structure = nested(last)
    structure.sampled = 3
    structure.linear(drawn(7, 5, seed=3), None).square().sum().backward()
    rows = [structure.left.grad.norm(dim=0), structure.right.grad.norm(dim=1)]
    trained = [False, False, True, False] if last else [True, True, True, False]
    assert [[value > 0 for value in row] for row in rows] == [trained, trained]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_prefix_of_dylora_is_an_adapter_of_its_own_with_its_own_scale(rank):
    structure, x = nested(), drawn(7, 5, seed=3)
    left, right = structure.left[:, :rank], structure.right[:rank]
    expected = x @ (structure.extra.dense() + 3.0 / rank * left @ right).T
    structure.sampled = rank
    torch.testing.assert_close(structure.linear(x, None), expected, **CLOSE)
    structure.eval().rank = rank
    torch.testing.assert_close(structure.linear(x, None), expected, **CLOSE)
    structure.truncate(rank)
    torch.testing.assert_close(structure.linear(x, None), expected, **CLOSE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", ["last", "prefix"])
def test_components_that_a_step_does_not_train_keep_their_bits(optimizer, mode):
    model, controller = adapted("dylora", "linear", train=mode, rank=4)
    controller.attach(made(optimizer, model.parameters()))
    structure = model[0].structure
    seen = set()
    for step in range(12):
        before, drew = copy.deepcopy(structure.state_dict()), controller.state["drawn"]
        controller.optimizers[0].zero_grad()
        (model(example("linear", step)) - 1).square().sum().backward()
        controller.optimizers[0].step()
        moved = (structure.left != before["left"]).any(0) | (
            structure.right != before["right"]
        ).any(1)
        allowed = {drew - 1} if mode == "last" else set(range(drew))
        assert set(moved.nonzero().flatten().tolist()) == allowed
        seen.add(drew)
    assert len(seen) > 2


def test_a_rank_that_is_set_afterwards_runs_everywhere_and_loses_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)).double()
    controller = adapt(model, DyLoRA(rank=0.99), ["*"])
    with torch.no_grad():
        for factors in controller.factors().values():
            factors.left.normal_()
    x, twin = drawn(4, 6), copy.deepcopy(model)
    controller.twins.append(twin)
    whole = model.eval()(x)
    controller.set_rank(4)
    assert [f.rank for f in controller.factors().values()] == [4, 3]
    cut = copy.deepcopy(model)
    for layer in cut:
        layer.structure.truncate(layer.structure.rank)
    torch.testing.assert_close(model(x), cut(x), **CLOSE)
    assert torch.equal(twin.eval()(x), model(x)) and not torch.allclose(model(x), whole)
    controller.set_rank(6)
    assert torch.equal(model(x), whole)
    for rank in (0, 7):
        with pytest.raises(ValueError, match=rf"rank must lie in \[1, 6\], got {rank}"):
            controller.set_rank(rank)
    with pytest.raises(ValueError, match="LoRA trains its components together.*dylora"):
        adapt(network("linear"), LoRA(rank=2), ["0"]).set_rank(1)


def test_all_weights_run_at_one_draw_of_dylora_and_a_copy_draws_alike():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)).double()
    controller = adapt(model, DyLoRA(rank=0.99), ["*"])
    ranks = [factors.rank for factors in controller.factors().values()]
    assert ranks == [6, 3]
    controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    drawn_ = controller.state["drawn"]
    assert [f.sampled for f in controller.factors().values()] == [drawn_, drawn_]
    twin = copy.deepcopy(controller)
    twin.attach(torch.optim.SGD(twin.model.parameters(), lr=0.1))
    assert twin.state["drawn"] == drawn_


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_the_step_of_codyra_is_the_proximal_step_of_the_absolute_value(kappa):
    values = drawn(20)
    grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    cost = 0.5 * (grid - values[:, None]) ** 2 + kappa * grid.abs()
    best = grid[cost.argmin(-1)]
    torch.testing.assert_close(soft_threshold(values, kappa), best, rtol=0, atol=1e-4)
    # The published sequence zeroes twice as much.
    between = torch.tensor([1.5 * kappa], dtype=torch.float64)
    assert kappa == 0 or soft_threshold(between, kappa).item() == pytest.approx(0.5 * kappa)


def test_the_threshold_of_codyra_rises_on_stairs_in_the_second_part_of_a_task():
    preset = CoDyRA(dense=0.5, shrink=0.1, stages=5, total_steps=20)
    found = [preset.kappa(step) for step in range(21)]
    assert found[:11] == [0.0] * 11 and found == sorted(found)
    assert sorted(set(found)) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])


def test_an_ended_task_of_codyra_stays_in_the_weights_and_the_next_one_starts_at_it():
    model, controller = adapted("codyra", "linear", shrink=0.5, stages=2)
    train(controller, "linear", steps=10)
    structure, x = model[0].structure, example("linear")
    before, dense = model.eval()(x), structure.dense().detach()
    assert (structure.core == 0).any()
    controller.end_task()
    torch.testing.assert_close(structure.extra.weight.detach(), dense, **CLOSE)
    torch.testing.assert_close(model(x), before, **CLOSE)
    assert (structure.core != 0).all() and not structure.left.any()
    assert not [p for p in structure.parameters() if controller.optimizers[0].state.get(p)]
    kept = structure.extra.weight.clone()
    optimizer = controller.optimizers[0]
    model.train()(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(structure.extra.weight, kept) and structure.left.any()


def test_components_of_codyra_that_became_zero_can_be_left_out():
    model, controller = adapted("codyra", "linear", rank=6, shrink=3.0, stages=1)
    train(controller, "linear", steps=10)
    structure, x = model[0].structure, example("linear")
    before = model.eval()(x)
    kept = structure.core.nonzero().flatten()
    assert len(kept) < 6
    controller.select("0", kept)
    torch.testing.assert_close(model(x), before, **CLOSE)
    assert structure.rank == len(kept)


def test_an_adapter_without_tasks_says_so():
    controller = adapt(network("linear"), LoRA(rank=2), ["0"])
    with pytest.raises(ValueError, match="LoRA knows no tasks; train on, or merge the model"):
        controller.end_task()


def test_growth_of_increlora_moves_no_weight_and_meets_the_total_exactly():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 6), nn.Linear(6, 5)).double()
    preset = IncreLoRA(rank=1, target_rank=3, warmup=2, grow_every=1, at_once=2)
    controller = adapt(model, preset, ["*"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
    controller.attach(optimizer)
    totals = []
    for step in range(9):
        optimizer.zero_grad()
        (model(drawn(5, 8, seed=step)) - 1).square().sum().backward()
        grown = controller.method.after_step
        outputs = {}

        def watched(*given, _grown=grown, _outputs=outputs):
            _outputs["before"] = model(drawn(5, 8))
            _grown(*given)
            _outputs["after"] = model(drawn(5, 8))

        controller.method.after_step = watched
        optimizer.step()
        controller.method.after_step = grown
        torch.testing.assert_close(outputs["after"], outputs["before"], **CLOSE)
        totals.append(sum(f.rank - 1 for f in controller.factors().values()))
    assert totals[0] == 3 and totals[-1] == 9 and totals == sorted(totals)
    assert all(later - sooner <= 2 for sooner, later in zip(totals, totals[1:], strict=False))
    state = [s for p, s in optimizer.state.items() if s["exp_avg"].shape == p.shape]
    assert len(state) == len(optimizer.state)


def test_the_reserve_of_increlora_keeps_its_weight_and_old_components_their_moments():
    model, controller = adapted("increlora", "linear")
    structure = model[0].structure
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    controller.attach(optimizer)
    old = None
    for step in range(3):
        optimizer.zero_grad()
        (model(example("linear", step)) - 1).square().sum().backward()
        optimizer.step()
        assert structure.core[-1] == RESERVE
        if old is not None and structure.rank > old.shape[-1]:
            moments = optimizer.state[structure.left]["exp_avg"]
            assert moments[:, : old.shape[-1]].norm() > 0 and not moments[:, old.shape[-1] :].any()
        old = structure.left.detach().clone()


def test_ranks_of_increlora_grow_where_the_change_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)).double()
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        teacher[1].weight += 0.7 * drawn(8, 3) @ drawn(3, 8, seed=1)
    preset = IncreLoRA(rank=1, target_rank=2, warmup=10, grow_every=10, at_once=1)
    controller = adapt(model, preset, ["*"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
    controller.attach(optimizer)
    for step in range(45):
        x = drawn(32, 8, seed=step)
        optimizer.zero_grad()
        (model(x) - teacher(x)).square().mean().backward()
        optimizer.step()
    ranks = {name: factors.rank - 1 for name, factors in controller.factors().items()}
    assert sum(ranks.values()) == 6
    assert max(ranks, key=ranks.get) == "1"


def test_sara_trains_the_share_of_entries_nearest_to_zero_with_their_signs():
    weight = drawn(50, 50)
    structure = SaRA(share=0.3).structure("a weight", weight, torch.Generator())
    assert isinstance(structure, SmallEntries)
    assert len(structure.open) == 750
    chosen = torch.zeros(2500, dtype=torch.bool)
    chosen[structure.term.index] = True
    assert weight.flatten()[chosen].abs().max() <= weight.flatten()[~chosen].abs().min()
    # As published, |W| written over the trained entries would flip every negative one.
    assert (structure.entries() < 0).sum() == (weight.flatten()[chosen] < 0).sum() > 300
    assert torch.equal(structure.dense(), weight)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_entries_of_sara_that_have_grown_are_closed_and_keep_their_bits(optimizer):
    model, controller = adapted("sara", "linear", reselect=3)
    controller.attach(made(optimizer, model.parameters()))
    structure = model[0].structure
    for step in range(6):
        before = structure.term.values.detach().clone().flatten()
        controller.optimizers[0].zero_grad()
        (model(example("linear", step)) - 1).square().sum().backward()
        controller.optimizers[0].step()
        moved = structure.term.values.flatten() != before
        if step == 2:
            small = structure.entries().abs() <= structure.bound
            assert torch.equal(structure.open, small) and small.any() and not small.all()
        if step > 2:
            assert torch.equal(moved, structure.open)


def test_the_penalty_of_sara_has_the_subgradient_of_the_nuclear_norm():
    weight = drawn(70, 66)
    model = nn.Sequential(nn.Linear(66, 70, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(weight)
    controller = adapt(model, SaRA(share=0.5, nuclear=0.1, reselect=None), ["0"])
    controller.penalty().backward()
    structure = model[0].structure
    left, _, right = torch.linalg.svd(structure.restricted().detach(), full_matrices=False)
    expected = 0.1 * (left @ right).flatten()[structure.term.index]
    torch.testing.assert_close(structure.term.values.grad.flatten(), expected, rtol=0, atol=1e-10)


def test_equal_magnitudes_are_chosen_by_place_so_the_share_is_met():
    places, bound = smallest_entries(torch.ones(4, 4), 5)
    assert places.tolist() == [0, 1, 2, 3, 4] and bound == 1
