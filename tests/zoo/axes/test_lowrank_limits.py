"""What every low-rank method does at the edge of its settings, sizes and numbers."""

import copy
import math
from typing import Any

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.lowrank import (
    SST,
    Controller,
    LowRank,
    Maestro,
    Method,
    ReLoRA,
    SLTrain,
    StepAdamW,
    reparametrize,
    shrink,
)
from archzoo.zoo.axes.lowrank import make_method, methods
from archzoo.zoo.transform.compress import decompose
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F

# Settings under which something happens in each of the first steps.
EAGER: dict[str, dict[str, Any]] = {
    "maestro": {"shrink_every": 1},
    "trp": {"min_kernel": 1, "period": 1, "nuclear": 0.01},
    "low_rank": {"rank": 4, "refactorize_every": 1},
    "relora": {"rank": 4, "merge_every": 1},
    "sst": {"rank": 4, "resample_every": 1},
    "switchlora": {"rank": 4, "interval": 1, "freeze": 0, "total_steps": 100},
}
RANKED = [
    name
    for name in methods.names()
    if "rank" in methods[name].options and name not in ("full", "sst", "switchlora")
]


def begin(method: Method, *, rate: float = 1e-2) -> tuple[Controller, torch.optim.Optimizer]:
    """Give a layer a structure, and attach an optimiser that every method takes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))
    controller = reparametrize(model, method, ["0"])
    optimizer = StepAdamW(model.parameters(), lr=rate)
    controller.attach(optimizer)
    return controller, optimizer


def step(controller: Controller, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(controller.step))
    loss, penalty = controller.model(x).square().mean(), controller.penalty()
    (loss if penalty is None else loss + penalty).backward()
    optimizer.step()


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("resumed", [True, False])
def test_a_state_of_fewer_components_is_taken_and_the_run_goes_on(name: str, resumed: bool) -> None:
    small, large = (
        begin(make_method({"name": name, **EAGER.get(name, {}), "rank": rank})) for rank in (2, 4)
    )
    for each in (small, large):
        step(*each)
    large[0].model.load_state_dict(small[0].model.state_dict())
    if resumed:
        large[1].load_state_dict(small[1].state_dict())
    assert large[0].factors()["0"].rank == 2
    step(*large)
    if resumed:
        step(*small)
        assert large[0].factors()["0"].left.shape == small[0].factors()["0"].left.shape
    assert all(torch.isfinite(p).all() for p in large[0].model.parameters())


@pytest.mark.parametrize("name", RANKED)
def test_a_state_of_more_components_than_the_rank_is_refused_by_name(name: str) -> None:
    small, large = (
        begin(make_method({"name": name, **EAGER.get(name, {}), "rank": rank})) for rank in (2, 4)
    )
    step(*small)
    with pytest.raises(
        RuntimeError, match="0.structure.left: 4 components .* rank=2; make it with"
    ):
        small[0].model.load_state_dict(large[0].model.state_dict())
    assert small[0].factors()["0"].rank == small[0].factors()["0"].allocated == 2
    step(*small)


def test_a_run_that_shrank_takes_back_an_earlier_state_of_its_own() -> None:
    controller, optimizer = begin(Maestro(shrink_every=0))
    step(controller, optimizer)
    saved = copy.deepcopy(controller.model.state_dict())
    controller.truncate("0", 3)
    step(controller, optimizer)
    controller.model.load_state_dict(saved)
    step(controller, optimizer)
    assert controller.factors()["0"].rank == 10


def test_an_active_rank_beyond_the_components_is_refused() -> None:
    controller, _ = begin(LowRank(rank=3))
    state = controller.model.state_dict()
    state["0.structure.active"] = torch.tensor(4)
    with pytest.raises(RuntimeError, match="0.structure.active: 4 of 3 components"):
        controller.model.load_state_dict(state)


INTERVALS = {"relora": (ReLoRA, "merge_every"), "sst": (SST, "resample_every")}


@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("interval", [1, 2, 5, 10, 19, 200, 5000])
def test_the_rate_is_whole_in_nine_steps_of_ten_by_default(name: str, interval: int) -> None:
    build, setting = INTERVALS[name]
    method = build(rank=2, **{setting: interval})
    controller, _ = begin(method)
    controller.step = interval
    factors = []
    for controller.step in range(interval, 2 * interval):
        factors.append(method.learning_rate_factor(controller))
    assert sum(factor == 1.0 for factor in factors) >= 0.9 * interval
    assert factors == sorted(factors)


@pytest.mark.parametrize("name", INTERVALS)
def test_long_intervals_have_the_warm_up_of_the_paper(name: str) -> None:
    build, _ = INTERVALS[name]
    assert build().settings()["rewarm"] == {"relora": 100, "sst": 20}[name]
    assert SST(resample_every=30).settings()["rewarm"] == 3
    assert ReLoRA(merge_every=0).settings()["rewarm"] == 100


@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("rewarm", [10, 11, 100])
def test_a_warm_up_that_never_ends_is_refused(name: str, rewarm: int) -> None:
    build, setting = INTERVALS[name]
    with pytest.raises(ValueError, match=f"rewarm={rewarm} must be below {setting}, which is 10 "):
        build(rank=2, rewarm=rewarm, **{setting: 10})
    method = build(rank=2, rewarm=rewarm, total_steps=40, **{setting: 0.25})
    with pytest.raises(ValueError, match=f"rewarm={rewarm} must be below {setting}, which is 10 "):
        begin(method)


@pytest.mark.parametrize("name", methods.names())
def test_the_usual_grouping_lets_all_that_makes_up_a_weight_decay(name: str) -> None:
    controller, _ = begin(make_method({"name": name, **EAGER.get(name, {})}))
    decayed = {
        id(p)
        for group in param_groups_weight_decay(
            controller.model, 0.1, no_weight_decay_list=decay_exclusions(controller.model)
        )
        for p in group["params"]
        if group["weight_decay"]
    }
    free = {"left", "right"} if name == "sst" else set()  # brought back to unit length
    for _, structure in controller.structures():
        for key, p in structure.named_parameters():
            if p.requires_grad:
                assert (id(p) in decayed) == (key not in free), key


def test_sltrain_takes_what_was_saved_when_its_values_were_a_vector() -> None:
    runs = [begin(SLTrain(rank=2, density=0.2)) for _ in range(2)]
    controller, optimizer = runs[0]
    step(controller, optimizer)
    kept = {"model": controller.model, "optimizer": optimizer, "controller": controller}
    state = copy.deepcopy({name: part.state_dict() for name, part in kept.items()})
    name = "0.structure.extra.values"
    state["model"][name] = state["model"][name].flatten()
    for known in state["optimizer"]["state"].values():
        if known["exp_avg"].shape == (24, 1):
            known["exp_avg"], known["exp_avg_sq"] = (
                known[key].flatten() for key in ("exp_avg", "exp_avg_sq")
            )
    again, fresh = runs[1]
    again.model.load_state_dict(state["model"])
    fresh.load_state_dict(state["optimizer"])
    again.load_state_dict(state["controller"])
    for each in runs:
        step(*each)
    for p, q in zip(controller.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (3, 6)])
@pytest.mark.parametrize("density", [0.03, 1e-9])
def test_a_sparse_term_has_an_entry_at_least(shape: tuple[int, int], density: float) -> None:
    model = nn.Sequential(nn.Linear(*shape, bias=False))
    controller = reparametrize(model, SLTrain(rank=1, density=density), ["0"])
    assert model(torch.randn(5, shape[0])).any()
    weight = model[0].weight
    assert isinstance(weight, torch.Tensor)
    assert weight.count_nonzero() == controller.method.beside(shape[::-1]) == 1


@pytest.mark.parametrize("sample", [True, False])
def test_a_flat_lasso_keeps_the_components_that_live_and_no_others(sample: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(12345))
    model = nn.Sequential(nn.Linear(10, 10, bias=False))
    method = Maestro(group_lasso=0.01, lasso="flat", sample=sample, threshold=1e-3, shrink_every=50)
    controller = reparametrize(model, method, ["0"])
    twin = copy.deepcopy(model)
    controller.twins.append(twin)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    controller.attach(optimizer)
    for _ in range(1500):
        optimizer.zero_grad()
        penalty = controller.penalty()
        assert penalty is not None
        losses = [F.mse_loss(m(x), x) for m in (model.eval(), model.train())]
        (losses[0] + losses[1] + penalty).backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(twin.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.1)
    assert controller.factors()["0"].rank == 3  # that of the three inputs
    assert F.mse_loss(model.eval()(x), x) < 3e-3
    torch.testing.assert_close(twin.eval()(x), model(x), rtol=0, atol=1e-2)
    small = decompose(model, threshold=1e-3) if not sample else model
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-4)


def test_components_are_removed_wherever_they_stand_with_what_the_optimiser_knows() -> None:
    controller, optimizer = begin(Maestro(lasso="flat", sample=False, shrink_every=0))
    step(controller, optimizer)
    factors, dead = controller.factors()["0"], [0, 3, 4, 8]
    alive = [j for j in range(10) if j not in dead]
    with torch.no_grad():
        factors.left[:, dead] = 0.0
    dense, mean = factors.dense().detach(), optimizer.state[factors.left]["exp_avg"].clone()
    counts = optimizer.state[factors.right]["step"].clone()
    assert shrink(controller, 1e-6, ordered=False) == {"0": 6}
    torch.testing.assert_close(factors.dense(), dense)
    assert torch.equal(optimizer.state[factors.left]["exp_avg"], mean[:, alive])
    assert torch.equal(optimizer.state[factors.right]["step"], counts[alive])
    step(controller, optimizer)
    with torch.no_grad():
        factors.left.zero_()
    assert shrink(controller, 1e-6, ordered=False, min_rank=2) == {"0": 2}


@pytest.mark.parametrize("chosen", [[0, 0], [10], [-1]])
def test_components_that_a_weight_does_not_have_are_refused(chosen: list[int]) -> None:
    controller, _ = begin(Maestro())
    with pytest.raises(ValueError, match="components must be different places in"):
        controller.select("0", torch.tensor(chosen))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", EAGER)
def test_an_event_on_a_ruined_weight_names_it(name: str, bad: float) -> None:
    controller, optimizer = begin(make_method({"name": name, **EAGER[name]}), rate=0.0)
    step(controller, optimizer)
    for p in controller.targets["0"].parameters():
        p.detach().view(-1)[0] = bad
    with pytest.raises(ValueError, match=r"\b0 holds? NaN or infinite values"):
        for _ in range(3):
            step(controller, optimizer)
