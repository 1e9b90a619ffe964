"""A method acts the same around every update, with a closure, under a scaler and after an error."""

import copy
import functools
import inspect
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import TRP, Method, reparametrize
from archzoo.layers.lowrank.optim.optimizer_step import surround_updates
from timm.optim import create_optimizer_v2, list_optimizers
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn

from ...tiers import tiered
from .lowrank_methods import (
    EAGER,
    FUSED,
    NAMES,
    OPTIMIZERS,
    PAIRS,
    assert_same,
    everything,
    loss_at,
    reparametrized,
    take_step,
    works_with,
)

STEPS = 7


def begin(name: str, kind: str, **more: Any):
    _, controller = reparametrized(name, **more)
    optimizer = OPTIMIZERS[kind](controller.model.parameters())
    controller.attach(optimizer)
    return controller, optimizer


@functools.cache
def plain_run(name: str, kind: str, steps: int = STEPS) -> dict[str, Tensor]:
    controller, optimizer = begin(name, kind)
    for step in range(steps):
        take_step(controller, optimizer, step)
    return everything(controller, optimizer)


def closure_of(controller, optimizer, step: int):
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at(controller, step)
        loss.backward()
        return loss

    return closure


# A closure


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_step_with_a_closure_is_the_plain_step(name: str, kind: str) -> None:
    controller, optimizer = begin(name, kind)
    for step in range(STEPS):
        expected = loss_at(controller, step).detach()
        closure = closure_of(controller, optimizer, step)
        loss = optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
        assert torch.equal(loss, expected)
    assert_same(everything(controller, optimizer), plain_run(name, kind))


def timms(name: str, controller: Any) -> torch.optim.Optimizer:
    try:
        return create_optimizer_v2(controller.model, name, lr=0.01, weight_decay=0.05)
    except (AssertionError, RuntimeError, ImportError) as error:
        pytest.skip(f"another package is needed: {error}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
@pytest.mark.filterwarnings(r"ignore:Using backward\(\) with create_graph=True")
@pytest.mark.parametrize("optimizer", list_optimizers())
@pytest.mark.parametrize("name", ["trp", "low_rank", "maestro", "sst"])
def test_a_closure_is_the_plain_step_under_every_optimiser_of_the_trainer(
    name: str, optimizer: str
) -> None:
    if optimizer == "adahessian" and name != "trp":
        pytest.skip("its state is made with it, once for all, and can neither be reset nor resized")
    if optimizer.startswith("kron") and name == "maestro":
        pytest.skip("preconditioners, of another shape than the weight, cannot be resized")
    runs = []
    for with_closure in (False, True):
        _, controller = reparametrized(name)
        made = timms(optimizer, controller)
        controller.attach(made)
        torch.manual_seed(0)  # some draw probes or preconditioners
        graph = bool(getattr(made, "is_second_order", False))
        for step in range(STEPS):

            def evaluate(made=made, step=step, graph=graph, controller=controller) -> Tensor:
                made.zero_grad()
                loss = loss_at(controller, step)
                loss.backward(create_graph=graph)
                return loss.detach()

            if with_closure:
                made.step(evaluate)
            else:
                evaluate()
                made.step()
        runs.append(everything(controller, made))
        assert controller.step == STEPS
    assert_same(*runs)


def test_the_wrapper_of_an_optimiser_is_refused_and_what_it_wraps_is_taken() -> None:
    runs = []
    for wrapped in (False, True):
        _, controller = reparametrized("relora")
        base = OPTIMIZERS["adamw"](controller.model.parameters())
        optimizer = Lookahead(base, k=100) if wrapped else base
        if wrapped:
            with pytest.raises(ValueError, match="Lookahead wraps AdamW.*attach.*AdamW"):
                controller.attach(optimizer)
        controller.attach(base)
        for step in range(STEPS):
            take_step(controller, optimizer, step)
        runs.append({key: p.detach() for key, p in controller.model.named_parameters()})
    assert_same(*runs)


def test_an_error_in_a_closure_leaves_everything_as_it_was() -> None:
    controller, optimizer = begin("trp", "adamw")
    before = everything(controller, optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert_same(everything(controller, optimizer), before)
    for step in range(STEPS):
        take_step(controller, optimizer, step)
    assert_same(everything(controller, optimizer), plain_run("trp", "adamw"))


class Twice(torch.optim.SGD):
    """Evaluates its closure at two places, as sharpness-aware minimisation does."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            closure()
            loss = closure()
        return loss


@pytest.mark.parametrize("name", NAMES)
def test_a_closure_that_is_evaluated_again_is_refused(name: str) -> None:
    if not works_with(name, "sgd"):
        pytest.skip("the method takes no such optimiser at all")
    _, controller = reparametrized(name)
    optimizer = Twice(controller.model.parameters(), lr=0.1)
    controller.attach(optimizer)
    with pytest.raises(ValueError, match="Twice evaluates its closure more than once"):
        optimizer.step(closure_of(controller, optimizer, 0))
    assert {group["lr"] for group in optimizer.param_groups} == {0.1} and controller.step == 0


@pytest.mark.parametrize("name", NAMES)
def test_lbfgs_is_refused_by_name_and_stays_as_it_was(name: str) -> None:
    _, controller = reparametrized(name)
    before = copy.deepcopy(controller.model.state_dict())
    optimizer = torch.optim.LBFGS(controller.model.parameters())
    with pytest.raises(ValueError, match=r"LBFGS takes one group.*AdamW, or merge\(model\)"):
        controller.attach(optimizer)
    assert len(optimizer.param_groups) == 1 and not controller.optimizers
    assert_same(dict(controller.model.state_dict()), before)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = controller.model(torch.ones(1, 2, 3, 3, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


# A scaler


@pytest.mark.parametrize("first", ["step", "unscale"])
@pytest.mark.parametrize(("name", "kind"), tiered(PAIRS, PAIRS[::3]))
def test_under_a_scaler_all_is_as_without_and_a_skipped_step_is_none(
    name: str, kind: str, first: str
) -> None:
    controller, optimizer = begin(name, kind)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for step in range(STEPS):
        for infinite in (True, False) if step in (0, 3, 4) else (False,):
            before = everything(controller, optimizer)
            optimizer.zero_grad()
            scaler.scale(loss_at(controller, step) * (torch.inf if infinite else 1.0)).backward()
            if first == "unscale":
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            if infinite:
                assert_same(everything(controller, optimizer), before)
    assert scaler.get_scale() == 2.0**7  # a power of two, whose quotients are exact
    assert_same(everything(controller, optimizer), plain_run(name, kind))


@pytest.mark.parametrize("scale", [2.0**6, torch.tensor(2.0**6)])
@pytest.mark.parametrize(
    ("name", "kind"), [pair for pair in PAIRS if pair[1] in FUSED], ids=lambda value: value
)
def test_a_hand_made_scaler_that_a_fused_optimiser_obeys_is_obeyed(
    name: str, kind: str, scale: float | Tensor
) -> None:
    controller, optimizer = begin(name, kind)
    given: Any = optimizer
    for step in range(STEPS):
        for infinite in (0.0, 1.0):
            optimizer.zero_grad()
            (loss_at(controller, step) * float(scale)).backward()
            given.grad_scale = torch.as_tensor(scale)
            given.found_inf = torch.tensor(1.0 - infinite)
            optimizer.step()
            del given.grad_scale, given.found_inf
    assert_same(everything(controller, optimizer), plain_run(name, kind))


@pytest.mark.parametrize("name", NAMES)
def test_a_hand_made_scaler_that_divides_and_leaves_steps_out_changes_nothing(name: str) -> None:
    kind = "adamw" if works_with(name, "adamw") else "step_adamw"
    controller, optimizer = begin(name, kind)
    for step in range(STEPS):
        for infinite in (True, False):
            optimizer.zero_grad()
            (loss_at(controller, step) * (torch.inf if infinite else 64.0)).backward()
            grads = [p.grad for p in controller.model.parameters() if p.grad is not None]
            if all(grad.isfinite().all() for grad in grads):
                torch._foreach_div_(grads, 64.0)
                optimizer.step()
    assert_same(everything(controller, optimizer), plain_run(name, kind))


def test_a_scaler_that_is_handed_to_the_step_is_refused() -> None:
    class Older(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure: Any = None, *, grad_scaler: Any = None) -> Any:
            return super().step(closure)

    _, controller = reparametrized("trp")
    optimizer = Older(controller.model.parameters(), lr=0.1)
    controller.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(loss_at(controller, 0)).backward()
    with (
        pytest.warns(FutureWarning, match="stop passing itself"),
        pytest.raises(ValueError, match="Older.step takes the scaler.*unscale_"),
    ):
        scaler.step(optimizer)
    assert controller.step == 0


# Errors, and others who wrap a step


class Fails(Method):
    """Changes the learning rate, and fails where it is told to."""

    replaces = False
    where = ""

    def learning_rate_factor(self, controller: Any) -> float:
        return 0.5

    def before_step(self, controller: Any, optimizer: Any) -> None:
        if self.where == "before":
            raise RuntimeError("before")

    def after_step(self, controller: Any, optimizer: Any) -> None:
        if self.where == "after":
            raise RuntimeError("after")


class Breaks(torch.optim.SGD):
    """Fails in a step where it is told to."""

    broken = False

    def step(self, closure: Any = None) -> Any:
        if self.broken:
            raise RuntimeError("step")
        return super().step(closure)


@pytest.mark.parametrize("where", ["before", "hook", "step", "after"])
def test_an_error_in_a_step_leaves_the_learning_rates_as_they_were(where: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    method = Fails()
    controller = reparametrize(model, method, ["0"], learning_rate_ratio=3.0)
    optimizer = Breaks(model.parameters(), lr=0.1)
    optimizer.broken = where == "step"
    controller.attach(optimizer)
    model(torch.ones(1, 3)).sum().backward()
    if where == "hook":
        optimizer.register_step_post_hook(lambda *_: 1 / 0)
    method.where = where
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        optimizer.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    assert controller.step == (where == "after") and controller.gradient_scale is None


@pytest.mark.parametrize("name", NAMES)
def test_after_an_update_that_failed_before_it_began_the_run_is_the_same(name: str) -> None:
    if name == "switchlora":
        pytest.skip("its exchange before the update is made, and W stays; another one follows")
    controller, optimizer = begin(name, "adamw")
    hook = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    hook.remove()
    for step in range(STEPS):
        if step in (0, 3, 4):
            hook = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                take_step(controller, optimizer, step)
            hook.remove()
        take_step(controller, optimizer, step)
    assert_same(everything(controller, optimizer), plain_run(name, "adamw"))


class Derived(torch.optim.AdamW):
    """Calls the step of its base, whose hooks torch would run a second time."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimiser_that_calls_the_step_of_its_base_takes_one_step(name: str) -> None:
    if not works_with(name, "adamw"):
        pytest.skip("the method takes no such optimiser at all")
    _, controller = reparametrized(name)
    settings = {"lr": 0.01, "weight_decay": 0.1, "foreach": False}
    optimizer = Derived(controller.model.parameters(), **settings)
    controller.attach(optimizer)
    for step in range(STEPS):
        take_step(controller, optimizer, step)
    assert_same(everything(controller, optimizer), plain_run(name, "adamw"))


@pytest.mark.parametrize("early", [False, True])
def test_a_scheduler_may_wrap_the_step_before_the_method_or_after_it(early: bool) -> None:
    _, controller = reparametrized("trp")
    own = {id(p) for target in controller.targets.values() for p in target.parameters()}
    every = list(controller.model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in every if id(p) in own]},
            {"params": [p for p in every if id(p) not in own]},
        ]
    )

    def schedule() -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    scheduler = schedule() if early else None
    controller.attach(optimizer)
    scheduler = scheduler or schedule()
    for step in range(4):
        take_step(controller, optimizer, step)
        scheduler.step()  # would warn if it did not see the optimiser's step
    assert controller.step == 4
    assert [group["lr"] for group in optimizer.param_groups] == [0.001 / 5] * 2


def test_the_step_keeps_its_name_and_signature_and_a_copy_of_the_optimiser_is_free() -> None:
    p = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    names = list(inspect.signature(optimizer.step).parameters)
    surround_updates(optimizer, lambda: pytest.fail("no update was asked for"))
    assert list(inspect.signature(optimizer.step).parameters) == names
    assert optimizer.step.__name__ == "step"
    copy.deepcopy(optimizer).step()


# The smallest inputs


def test_the_sub_gradient_joins_a_closures_gradient() -> None:
    for closure in (False, True):
        model = nn.Sequential(nn.Linear(1, 1, bias=False))
        nn.init.ones_(model[0].weight)
        controller = reparametrize(model, TRP(min_kernel=1, nuclear=1.0), ["0"])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        controller.attach(optimizer)

        def evaluate(optimizer=optimizer, model=model) -> Tensor:
            optimizer.zero_grad()
            loss = model(torch.zeros(1, 1)).sum()
            loss.backward()
            return loss

        if closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
        assert model[0].weight.item() == pytest.approx(0.9)


def test_a_fused_optimiser_does_not_divide_the_sub_gradient_by_the_scale() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.ones_(model[0].weight)
    controller = reparametrize(model, TRP(min_kernel=1, nuclear=1.0), ["0"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    controller.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.zeros(1, 1)).sum()).backward()
    scaler.step(optimizer)
    assert model[0].weight.item() == pytest.approx(0.9)


def test_a_step_that_a_fused_optimiser_skips_takes_no_proximal_step() -> None:
    controller, optimizer = begin("maestro", "adamw_fused")
    assert EAGER["maestro"]["group_lasso"] > 0
    before = copy.deepcopy(controller.model.state_dict())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_at(controller, 0) * torch.inf).backward()
    scaler.step(optimizer)
    assert_same(dict(controller.model.state_dict()), before)
    assert controller.step == 0
