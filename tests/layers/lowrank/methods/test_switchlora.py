"""Laws of SwitchLoRA: exchanging vectors never changes the map, and touches only counterparts."""

import copy
from math import sqrt

import pytest
import torch
from archzoo.layers.lowrank import (
    StepAdamW,
    SwitchedFactors,
    SwitchLoRA,
    merge,
    reparametrize,
)
from archzoo.layers.lowrank.methods.switchlora import switch_rate
from archzoo.layers.lowrank.weights.switched_factors import (
    COUNTERPART,
    DIMENSION,
    Side,
    initial_deviations,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ..lowrank_runs import begin, differing, network, run, take_step

# Of a matrix of size 1 to which some tens of changes were added and taken away in float64.
TOLERANCE = {"rtol": 0.0, "atol": 1e-14}
SIDES: list[Side] = ["left", "right"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def switched(*shape: int, rank: int = 3) -> SwitchedFactors:
    weight = torch.randn(shape, generator=seeded(), dtype=torch.float64)
    return SwitchedFactors(weight, rank, alpha=1.0, generator=seeded(1))


def steps(model: nn.Module) -> StepAdamW:
    return StepAdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def busy(**settings: object) -> SwitchLoRA:
    """Exchange about one vector a side and step."""
    given = {"rank": 4, "interval": 4.0, "decay_share": 10.0, "freeze": 2, "total_steps": 20}
    return SwitchLoRA(**{**given, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "columns"), [(60, 20), (20, 60), (32, 32)])
def test_the_product_starts_with_the_variance_of_a_linear_layer(rows: int, columns: int) -> None:
    rank = 8
    left, right = initial_deviations(rows, columns, rank)
    # Variance of a sum of r products, divided by r²; 1 / (3 columns) is torch's.
    assert rank * left**2 * right**2 / rank**2 == pytest.approx(1 / (3 * columns))
    assert right / left == pytest.approx((rows / columns) ** 0.25)
    weight = SwitchedFactors(torch.zeros(rows, columns), rank, alpha=1.0, generator=seeded())
    for pool, deviation in ((weight.pool_left, left), (weight.pool_right, right)):
        assert pool.std().item() == pytest.approx(deviation, rel=0.1)  # 400 to 1200 draws
        assert pool.abs().max() <= sqrt(3) * deviation


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (2, 6, 8)])
def test_it_starts_at_the_weight_that_it_was_given(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(switched(*shape).dense(), weight, **TOLERANCE)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (2, 6, 8)])
def test_no_number_of_exchanges_moves_the_weight_or_loses_a_vector(shape: tuple[int, ...]) -> None:
    weight, g = switched(*shape), seeded(2)
    before = weight.dense().detach()

    def vectors(side: Side) -> Tensor:
        dim = DIMENSION[side]
        pool = weight.pool_left if side == "left" else weight.pool_right
        waiting = pool.index_select(dim, weight.spare(side))
        every = torch.cat([weight.vectors(side).detach(), waiting], dim)
        return every.transpose(dim, -1).reshape(-1, every.shape[dim]).sort().values

    owned = {side: vectors(side) for side in SIDES}
    for number in range(40):
        side = SIDES[number % 2]
        live = torch.randperm(3, generator=g)[:2]
        spare = weight.spare(side)
        candidates = spare[torch.randperm(len(spare), generator=g)[:2]]
        chosen = weight.selected(side).clone()
        chosen[live] = candidates
        weight.switch(side, live, candidates)
        assert torch.equal(weight.selected(side), chosen)
        assert len(set(weight.selected(side).tolist())) == 3
    torch.testing.assert_close(weight.dense().detach(), before, **TOLERANCE)
    assert all(torch.equal(vectors(side), owned[side]) for side in SIDES)


def test_the_gradient_of_an_exchanged_vector_stays_and_that_of_its_counterpart_changes() -> None:
    weight = switched(7, 5)
    x = torch.randn(4, 5, generator=seeded(3), dtype=torch.float64)

    def gradients() -> list[Tensor]:
        weight.zero_grad()
        weight.linear(x, None).square().sum().backward()
        return [g.clone() for p in (weight.left, weight.right) if (g := p.grad) is not None]

    before = gradients()
    weight.switch("left", torch.tensor([1]), torch.tensor([4]))
    after = gradients()
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-12)
    changed = (after[1] - before[1]).abs().amax(1)
    assert changed[1] > 1e-3 and changed[[0, 2]].max() < 1e-12


def test_with_a_learning_rate_of_zero_nothing_moves_the_map_while_vectors_are_exchanged() -> None:
    model, controller, optimizer = begin(busy(), lambda m: StepAdamW(m.parameters(), lr=0.0))
    before = {name: s.dense().detach() for name, s in controller.structures()}
    chosen = [s.selected_left.clone() for s in controller.factors().values()]
    for step in range(20):
        take_step(model, optimizer, step)
    for name, structure in controller.structures():
        torch.testing.assert_close(structure.dense().detach(), before[name], **TOLERANCE)
    after = [s.selected_left for s in controller.factors().values()]
    assert not any(torch.equal(a, b) for a, b in zip(chosen, after, strict=True))


@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_counterparts_rest_bit_by_bit_for_exactly_as_many_updates_as_set(freeze: int) -> None:
    model, controller, optimizer = begin(busy(freeze=freeze, interval=8.0), steps)
    structure = controller.factors()["3"]
    assert isinstance(structure, SwitchedFactors)
    resting = {side: torch.zeros(4, dtype=torch.int64) for side in SIDES}
    rested = 0
    for step in range(20):
        values = {s: structure.vectors(s).detach().clone() for s in SIDES}
        chosen = {s: structure.selected(s).clone() for s in SIDES}
        take_step(model, optimizer, step)
        exchanged = {s: structure.selected(s) != chosen[s] for s in SIDES}
        assert not (exchanged["left"] & (resting["left"] > 0)).any()
        assert not (exchanged["right"] & (resting["right"] > 0)).any()
        for side in SIDES:
            resting[COUNTERPART[side]][exchanged[side]] = freeze
        for side in SIDES:
            same = values[side] == structure.vectors(side).detach()
            same = same.all(0 if side == "left" else 1)
            assert torch.equal(same & ~exchanged[side], resting[side] > 0)
            rested += int(same.sum())
            resting[side] = (resting[side] - 1).clamp(min=0)
    assert bool(rested) == bool(freeze)


def test_only_the_counterparts_lose_what_the_optimiser_knows() -> None:
    model, controller, optimizer = begin(busy(freeze=0, interval=8.0), steps)
    for step in range(3):
        take_step(model, optimizer, step)
    structure = controller.factors()["3"]
    assert isinstance(structure, SwitchedFactors)
    reset = 0
    for _ in range(3, 9):
        knows = {s: copy.deepcopy(optimizer.state[structure.vectors(s)]) for s in SIDES}
        chosen = {s: structure.selected(s).clone() for s in SIDES}
        controller.method.before_step(controller, optimizer)
        for side in SIDES:
            other = COUNTERPART[side]
            lost = (structure.selected(other) != chosen[other]).nonzero().squeeze(-1)
            reset += len(lost)
            for key, value in knows[side].items():
                expected = value.index_fill(DIMENSION[side], lost, 0)
                assert torch.equal(optimizer.state[structure.vectors(side)][key], expected)
        controller.method.after_step(controller, optimizer)
        controller.step += 1
    assert reset > 0


def test_as_many_vectors_are_exchanged_as_the_rate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {side: 0 for side in SIDES}
    switch = SwitchedFactors.switch

    def counting(self: SwitchedFactors, side: Side, live: Tensor, candidates: Tensor) -> None:
        counts[side] += len(live)
        switch(self, side, live, candidates)

    monkeypatch.setattr(SwitchedFactors, "switch", counting)
    model = nn.Sequential(nn.Linear(10, 10).double(), nn.Identity())
    total, settings = 300, {"interval": 10.0, "decay_share": 0.5}
    method = SwitchLoRA(rank=4, freeze=0, total_steps=total, **settings)
    controller = reparametrize(model, method, ["0"])
    optimizer = StepAdamW(model.parameters(), lr=0.0)
    controller.attach(optimizer)
    for _ in range(total):
        optimizer.step()
    rates = torch.tensor([switch_rate(t, 4, total=total, **settings) for t in range(total)])
    deviation = (rates.frac() * (1 - rates.frac())).sum().sqrt().item()
    for count in counts.values():
        assert abs(count - rates.sum().item()) < 3 * deviation
    # The geometric sum: r / interval · ρT / log(1 / 0.3), but for its tail 0.3² and half a step.
    assert rates.sum().item() == pytest.approx(0.4 * 150 / 1.204 * (1 - 0.09), rel=0.01)


@pytest.mark.parametrize("step", [1, 7, 12])
def test_a_run_that_goes_on_from_its_files_equals_one_that_never_stopped(step: int) -> None:
    whole, stopped = run(busy, steps, 14), run(busy, steps, 14, step)
    assert not differing(whole[0], stopped[0])
    assert whole[1].step == stopped[1].step == 14


def test_a_checkpoint_in_memory_stays_what_it_was_while_the_run_goes_on() -> None:
    model, controller, optimizer = begin(busy(), steps)
    take_step(model, optimizer, 0)
    kept = controller.state_dict()
    copied = copy.deepcopy(kept)
    for step in range(1, 6):
        take_step(model, optimizer, step)
    for name, sides in copied["state"]["resting"].items():
        for side, counts in sides.items():
            assert torch.equal(counts, kept["state"]["resting"][name][side])
    assert "held" not in kept["state"]


def test_the_weights_of_two_processes_with_one_seed_stay_equal() -> None:
    assert not differing(run(busy, steps, 8)[0], run(busy, steps, 8)[0])


def test_merging_gives_the_model_back_with_the_same_outputs() -> None:
    model, _, optimizer = begin(busy(), steps)
    for step in range(5):
        take_step(model, optimizer, step)
    x = torch.randn(4, 2, 3, 3, generator=seeded(), dtype=torch.float64)
    before = model(x)
    assert merge(model) == ["0", "3"]
    assert model.state_dict().keys() == network().state_dict().keys()
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_an_average_of_the_weights_takes_part_in_exchanges_without_a_change() -> None:
    model, controller, optimizer = begin(busy(), steps)
    twin = copy.deepcopy(model)
    controller.twins.append(twin)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(torch.randn(p.shape, generator=seeded(), dtype=p.dtype) / 10)
    x = torch.randn(4, 2, 3, 3, generator=seeded(), dtype=torch.float64)
    before = twin(x)
    for step in range(5):
        take_step(model, optimizer, step)
    torch.testing.assert_close(twin(x), before, rtol=0, atol=1e-12)
    for name, structure in controller.factors().items():
        follower = next(controller.twins_of(name))
        assert torch.equal(follower.get_buffer("selected_left"), structure.selected_left)


def test_at_full_rank_there_is_nothing_to_exchange() -> None:
    model, controller, optimizer = begin(busy(rank=1.0), steps)
    for step in range(3):
        take_step(model, optimizer, step)
    for structure in controller.factors().values():
        assert torch.equal(structure.selected_left, torch.arange(structure.rank))


def test_groups_of_a_convolution_and_raw_matrices_of_the_ball_are_switched_too() -> None:
    from archzoo.layers.hyperbolic import PoincareLinear

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), PoincareLinear(8, 6)
    ).double()  # fmt: skip
    controller = reparametrize(model, busy(rank=2, interval=2.0, freeze=1), ["0", "2:weight"])
    optimizer = StepAdamW(model.parameters(), lr=0.0)
    controller.attach(optimizer)
    x = torch.randn(2, 4, 3, 3, generator=seeded(), dtype=torch.float64) / 10
    before = model(x)
    for _ in range(4):
        model(x).sum().backward()
        optimizer.step()
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-13)
    for structure in controller.factors().values():
        assert not torch.equal(structure.selected_right, torch.arange(2))


def test_components_are_not_removed_over_a_frozen_matrix() -> None:
    with pytest.raises(ValueError, match="merge"):
        switched(7, 5).truncate(2)


def test_it_stores_what_it_says() -> None:
    weight = switched(7, 5)
    assert weight.parameter_count() == 7 * 5 + (5 + 3) * (7 + 5)
    trained = [p for p in weight.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 3 * (7 + 5)


def test_it_works_in_half_precision_and_starts_on_the_meta_device() -> None:
    weight = SwitchedFactors(torch.randn(6, 6), 2, alpha=1.0, generator=seeded())
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = weight.linear(x, None)
    torch.testing.assert_close(y.float(), F.linear(x, weight.dense()), rtol=0, atol=0.1)
    empty = SwitchedFactors(torch.empty(6, 6, device="meta"), 2, alpha=1.0, generator=seeded())
    assert empty.pool_left.is_meta and empty.dense().shape == (6, 6)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_an_optimiser_without_counts_a_vector_is_refused(name: str) -> None:
    controller = reparametrize(network(), busy(), ["3"])
    optimizer = getattr(torch.optim, name)(controller.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=f"{name} counts updates.*optim=step_adamw"):
        controller.attach(optimizer)


def test_a_run_of_unknown_length_is_refused() -> None:
    controller = reparametrize(network(), busy(total_steps=None), ["3"])
    with pytest.raises(ValueError, match="give total_steps"):
        controller.attach(steps(controller.model))


BAD = {
    "rank must be at least 1": {"rank": 0},
    "alpha must be above 0": {"alpha": 0.0},
    "2 freeze = 10": {"freeze": 5, "interval": 9.0},
    "freeze must be at least 0": {"freeze": -1},
    "decay_share must be above 0": {"decay_share": 0.0},
    "total_steps must be at least 1": {"total_steps": 0},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items())
def test_bad_settings_are_refused(message: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=message):
        busy(**settings)
