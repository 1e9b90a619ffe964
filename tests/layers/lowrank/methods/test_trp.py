"""Trained rank pruning: the projection, its sub-gradient, and when either happens."""

import copy
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import SCHEMES, TRP, Controller, rank_for_energy, reparametrize
from archzoo.layers.lowrank.methods.trp import (
    nuclear_subgradient,
    project_energy,
    ramped,
)
from torch import nn

# Float64 sums of a few hundred products at unit scale round to 1e-14.
TOL = {"rtol": 0.0, "atol": 1e-12}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def nuclear(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix).sum()


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 8, 3, stride=2),
        nn.Flatten(), nn.Linear(8 * 9, 5),
    )  # fmt: skip


def start(method: TRP, model: nn.Module) -> tuple[Controller, torch.optim.Optimizer]:
    controller = reparametrize(model, method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    controller.attach(optimizer)
    return controller, optimizer


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = random(4, 3, 8, 8, seed=100 + step, dtype=torch.float32)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def rank(matrix: torch.Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix.double(), rtol=1e-5))


# The projection


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (3, 5, 9)])
@pytest.mark.parametrize("discarded", [0.01, 0.1, 0.5, 0.9])
def test_the_rank_keeps_the_energy_and_one_less_would_not(
    shape: tuple[int, ...], discarded: float
) -> None:
    matrix = random(*shape)
    projected, left, _ = project_energy(matrix, discarded)
    energy = torch.linalg.svdvals(matrix).square().reshape(-1, min(shape[-2:])).sum(0)
    kept = left.shape[-1]
    assert energy[:kept].sum() >= (1 - discarded) * energy.sum()
    assert kept == 1 or energy[: kept - 1].sum() < (1 - discarded) * energy.sum()
    lost = (matrix - projected).square().sum()
    torch.testing.assert_close(lost, energy[kept:].sum(), **TOL)


def test_nothing_to_discard_leaves_every_bit() -> None:
    matrix = random(6, 9)
    projected, left, _ = project_energy(matrix, 0.0)
    assert torch.equal(projected, matrix)
    assert left.shape[-1] == 6


def test_projecting_again_only_lowers_the_rank_and_stops_when_the_last_holds_enough() -> None:
    matrix, ranks = random(16, 64), []
    for _ in range(40):
        matrix, left, _ = project_energy(matrix, 0.1)
        ranks.append(left.shape[-1])
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[1] < ranks[0] < 16  # energy projection is not idempotent
    values = torch.linalg.svdvals(matrix).square()
    assert values[ranks[-1] - 1] > 0.1 * values.sum()


def test_half_precision_is_projected_in_float32() -> None:
    matrix = random(8, 8).to(torch.bfloat16)
    projected, left, right = project_energy(matrix, 0.2)
    assert projected.dtype == torch.bfloat16
    assert left.dtype == right.dtype == torch.float32


# The sub-gradient


def test_at_full_rank_it_is_the_gradient_of_the_nuclear_norm() -> None:
    matrix, direction = random(5, 8), random(5, 8, seed=1)
    _, left, right = project_energy(matrix, 0.0)
    h = 1e-6
    slope = (nuclear(matrix + h * direction) - nuclear(matrix - h * direction)) / (2 * h)
    inner = (nuclear_subgradient(left, right) * direction).sum()
    assert abs(slope - inner) < 1e-8  # h² of the central difference, 1e-16 / h of rounding


def test_it_supports_the_nuclear_norm_at_the_projected_weight_and_not_before_it() -> None:
    # From W a short way along -G shortens only the kept singular values; the dropped ones grow.
    matrix = random(8, 12)
    projected, left, right = project_energy(matrix, 0.3)
    subgradient = nuclear_subgradient(left, right)

    def violations(at: torch.Tensor) -> int:
        count = 0
        for seed in range(300):
            other = at + 10 ** -(seed % 4) * random(8, 12, seed=seed)
            if nuclear(other) < nuclear(at) + (subgradient * (other - at)).sum() - 1e-12:
                count += 1
        return count

    assert violations(projected) == 0
    assert violations(matrix) > 30


# Events


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_first_forward_pass_sees_projected_weights(scheme: Any) -> None:
    model = network()
    before = copy.deepcopy(model)
    controller, _ = start(TRP(energy=0.3, scheme=scheme), model)
    assert list(controller.targets) == ["0", "3"]
    for name, target in controller.targets.items():
        matrix = target.matrix()
        kept = controller.state["ranks"][name]
        flat = matrix if matrix.dim() == 2 else matrix[0]
        assert rank(flat) <= kept <= min(matrix.shape[-2:])
        assert kept < min(matrix.shape[-2:])
    assert torch.equal(model[2].weight, before[2].weight)
    assert torch.equal(model[5].weight, before[5].weight)


def test_weights_are_projected_every_period_of_global_steps() -> None:
    model = network()
    controller, optimizer = start(TRP(period=3, energy=0.3), model)
    low = []
    for step in range(7):
        low.append(rank(controller.targets["3"].matrix()) < 8)
        take_steps(model, optimizer, range(step, step + 1))
    assert low == [True, False, False, True, False, False, True]


def test_a_warm_up_and_a_ramp_move_period_and_energy() -> None:
    method = TRP(period=10, energy=0.2, warmup=4, ramp=8, period_start=2, energy_start=0.0)
    assert [method.period_at(s) for s in (4, 8, 12, 50)] == [2, 6, 10, 10]
    assert [method.energy_at(s) for s in (4, 8, 12, 50)] == [0.0, 0.1, 0.2, 0.2]
    assert ramped(1.0, 3.0, -1.0) == 1.0
    model = network()
    controller, optimizer = start(method, model)
    projected = []
    for step in range(20):
        before = controller.state["next"]
        take_steps(model, optimizer, range(step, step + 1))
        if controller.state["next"] != before:
            projected.append(step + 1)
    assert projected == [4, 6, 10, 18]


def test_the_sub_gradient_joins_the_gradient_of_the_step_after_a_projection_only() -> None:
    model = network()
    controller, optimizer = start(TRP(period=2, energy=0.3, nuclear=0.5), model)
    weight = model[3].weight
    seen: list[torch.Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(weight.grad.clone()))
    for step in range(3):
        pending = dict(controller.state["pending"])
        x = random(4, 3, 8, 8, seed=step, dtype=torch.float32)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        plain = weight.grad.clone()
        optimizer.step()
        if step % 2 == 0:
            left, right = pending["3"]
            added = 0.5 * (left @ right).reshape(weight.shape)
            torch.testing.assert_close(seen[-1], plain + added)
            assert rank(left @ right) == left.shape[-1]
        else:
            assert not pending
            assert torch.equal(seen[-1], plain)


@pytest.mark.parametrize("stop", [4, 5])
def test_a_resumed_run_is_the_same_in_every_bit_and_projects_nothing_twice(stop: int) -> None:
    # Step 4 lies between a projection and the step that uses its sub-gradient.
    method = {"period": 4, "energy": 0.3, "nuclear": 1e-3}
    whole = network()
    _, optimizer = start(TRP(**method), whole)
    take_steps(whole, optimizer, range(10))

    first = network()
    controller, optimizer = start(TRP(**method), first)
    take_steps(first, optimizer, range(stop))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict(), controller.state_dict()))

    second = network(seed=1)
    controller, optimizer = start(TRP(**method), second)
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    controller.load_state_dict(saved[2])
    take_steps(second, optimizer, range(stop, 10))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_its_state_survives_a_file_that_holds_no_code(tmp_path: Any) -> None:
    model = network()
    controller, _ = start(TRP(energy=0.3, nuclear=1e-3), model)
    torch.save(controller.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)["state"]
    assert state["ranks"] == controller.state["ranks"]
    assert torch.equal(state["pending"]["0"][0], controller.state["pending"]["0"][0])


def test_training_under_projection_leaves_weights_that_are_nearly_low_rank() -> None:
    dense, projected = network(), network()
    plain = torch.optim.SGD(dense.parameters(), lr=0.05, momentum=0.9)
    take_steps(dense, plain, range(30))
    controller, optimizer = start(TRP(period=5, energy=0.2), projected)
    take_steps(projected, optimizer, range(30))
    matrix = controller.targets["3"].matrix()
    ours = rank_for_energy(torch.linalg.svdvals(matrix), 0.05)
    theirs = rank_for_energy(torch.linalg.svdvals(dense[3].weight.flatten(1)), 0.05)
    assert ours < theirs


# Targets and settings


def test_small_kernels_and_linear_layers_are_left_alone_with_a_reason_unless_asked_for() -> None:
    controller = reparametrize(network(), TRP())
    assert "min_kernel=2" in controller.skipped["2"]
    assert "min_kernel=2" in controller.skipped["5"]
    assert set(reparametrize(network(), TRP(min_kernel=1)).targets) == {"0", "2", "3", "5"}
    assert set(reparametrize(network(), TRP(), ["2", "5"]).targets) == {"2", "5"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"period": 0}, "period must be at least 1 step, got 0"),
        ({"energy": 1.0}, r"energy must be a share in \[0, 1\) to discard, got 1.0"),
        ({"nuclear": -1e-4}, "nuclear must be at least 0"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"min_kernel": 0}, "min_kernel must be at least 1"),
        ({"energy_start": 0.0}, "need ramp"),
        ({"period_start": 0, "ramp": 5}, "period_start must be at least 1 step"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TRP(**settings)


def test_nan_in_a_weight_is_named_before_its_singular_values_are_sought() -> None:
    model = network()
    _, optimizer = start(TRP(period=1, energy=0.3), model)
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="3 holds NaN or infinite values after 1 steps"):
        optimizer.step()
