"""Frozen weights stay frozen: no method touches them, and merging gives them back as they were."""

import copy
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import Controller, lowrank_report, merge, reparametrize, structures
from torch import Tensor, nn

from ...tiers import tiered
from .lowrank_methods import (
    NAMES,
    OPTIMIZERS,
    PAIRS,
    assert_same,
    method_of,
    network,
    reparametrized,
    take_step,
    targets_of,
    works_with,
)

STEPS = 7
PARAMETERS = {"0": ("weight", "bias"), "3": ("weight", "bias"), "5:matrix": ("matrix",)}


def kind_for(name: str) -> str:
    return "adamw" if works_with(name, "adamw") else "step_adamw"


def of_layer(controller: Controller, name: str) -> dict[str, Tensor]:
    """Return a copy of all that a layer holds, trained or not."""
    layer = controller.model.get_submodule(name.partition(":")[0])
    return {key: value.detach().clone() for key, value in layer.state_dict().items()}


def train(controller: Controller, kind: str, steps: range = range(STEPS)) -> torch.optim.Optimizer:
    optimizer = OPTIMIZERS[kind](controller.model.parameters())
    controller.attach(optimizer)
    for step in steps:
        take_step(controller, optimizer, step)
    return optimizer


def freeze(model: nn.Module, name: str, parameters: tuple[str, ...]) -> None:
    layer = model.get_submodule(name.partition(":")[0])
    for parameter in parameters:
        getattr(layer, parameter).requires_grad_(False)


def chosen_by(how: str, method: Any) -> Any:
    """Return targets that take all but the head without a name in full."""
    layers = [name.partition(":")[0] for name in targets_of(method)]
    return {
        "default": None,
        "pattern": ["[035]*"],
        "predicate": lambda name, module: name.partition(":")[0] in layers,
    }[how]


@pytest.mark.parametrize("how", ["default", "pattern", "predicate"])
@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_weight_is_left_alone_with_a_reason_and_nothing_of_it_changes(
    name: str, how: str
) -> None:
    method = method_of(name)
    for frozen in targets_of(method):
        model = network()
        freeze(model, frozen, PARAMETERS[frozen])
        before = copy.deepcopy(model.get_submodule(frozen.partition(":")[0]).state_dict())
        if method.takes_frozen:
            continue
        controller = reparametrize(model, method_of(name), chosen_by(how, method))
        assert frozen not in controller.targets
        assert "requires_grad=False" in controller.skipped[frozen]
        assert frozen in controller.summary() and "requires_grad=False" in controller.summary()
        if how == "default" and not controller.targets:
            continue
        train(controller, kind_for(name))
        assert_same(of_layer(controller, frozen), dict(before))
        merge(model, strict=False)
        layer = model.get_submodule(frozen.partition(":")[0])
        assert not any(p.requires_grad for p in layer.parameters())
        assert_same(of_layer(controller, frozen), dict(before))


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_weight_that_is_named_is_refused_and_the_model_is_as_it_was(name: str) -> None:
    method = method_of(name)
    if method.takes_frozen:
        pytest.skip("the method gives frozen weights frozen factors")
    for frozen in targets_of(method):
        model = network()
        freeze(model, frozen, PARAMETERS[frozen])
        kinds = [type(layer) for layer in model]
        with pytest.raises(ValueError, match=f"{frozen} cannot be a target: it is frozen"):
            reparametrize(model, method, targets_of(method))
        assert [type(layer) for layer in model] == kinds


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_model_has_no_targets_but_for_compression(name: str) -> None:
    model = network().requires_grad_(False)
    method = method_of(name)
    if not method.takes_frozen:
        with pytest.raises(ValueError, match="no weight of Sequential is a target .*it is frozen"):
            reparametrize(model, method)
        return
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    before = model(x)
    reparametrize(model, method, targets_of(method))
    assert not any(p.requires_grad for p in model.parameters())
    assert [row.trained for row in lowrank_report(model)] == [0, 0, 0]
    torch.testing.assert_close(model(x), before)
    for layer in copy.deepcopy(model):
        if hasattr(layer, "to_sequence") and layer.structure.extra is None:
            assert not any(p.requires_grad for p in layer.to_sequence().parameters())
    merge(model)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("before_attach", [True, False])
@pytest.mark.parametrize(("name", "kind"), tiered(PAIRS, PAIRS[::3]))
def test_what_is_frozen_after_it_got_its_structure_is_left_alone_from_then_on(
    name: str, kind: str, before_attach: bool
) -> None:
    for frozen in targets_of(method_of(name)):
        _, controller = reparametrized(name)
        layer = controller.model.get_submodule(frozen.partition(":")[0])
        optimizer = OPTIMIZERS[kind](controller.model.parameters())
        if before_attach:
            layer.requires_grad_(False)
            before = of_layer(controller, frozen)
        controller.attach(optimizer)
        done = 0
        if not before_attach:
            for done in range(2):
                take_step(controller, optimizer, done)
            layer.requires_grad_(False)
            before = of_layer(controller, frozen)
        head = controller.model[-1].weight.detach().clone()
        for step in range(done, done + STEPS):
            take_step(controller, optimizer, step)
        assert_same(of_layer(controller, frozen), before)
        assert not torch.equal(controller.model[-1].weight, head)
        assert f"{frozen} (is frozen now)" in controller.summary()
        if all(structure.is_matrix for _, _, structure in structures(controller.model)):
            merge(controller.model)
            layer = controller.model.get_submodule(frozen.partition(":")[0])
            assert not any(p.requires_grad for p in layer.parameters())
            trained = {key.partition(".")[0] for key, p in controller.model.named_parameters()
                       if p.requires_grad}  # fmt: skip
            assert trained == {"0", "3", "5", "6"} - {frozen.partition(":")[0]}


@pytest.mark.parametrize("name", NAMES)
def test_with_all_targets_frozen_the_rest_trains_and_a_penalty_is_none(name: str) -> None:
    _, controller = reparametrized(name)
    for target in controller.targets.values():
        target.module.requires_grad_(False)
    before = {frozen: of_layer(controller, frozen) for frozen in controller.targets}
    trained = [p for p in controller.model.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[kind_for(name)](trained)
    controller.attach(optimizer)
    assert controller.penalty() is None
    for step in range(STEPS):
        take_step(controller, optimizer, step)
    for frozen, values in before.items():
        assert_same(of_layer(controller, frozen), values)


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_weight_and_bias_come_back_with_what_each_of_them_had(
    name: str, weight: bool, bias: bool
) -> None:
    method = method_of(name)
    model = network()
    wanted = {}
    for layer in ("0", "3"):
        model.get_submodule(layer).weight.requires_grad_(weight)
        model.get_submodule(layer).bias.requires_grad_(bias)
        wanted |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
    kept = {key: p for key, p in model.named_parameters() if key.endswith("bias")}
    if not (weight or method.takes_frozen or method.is_matrix):
        return  # nothing is left for it
    controller = reparametrize(model, method, ["[035]*"])
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    train(controller, kind_for(name))
    for key, p in kept.items():
        assert dict(model.named_parameters())[key] is p
        assert torch.equal(p, before[key]) != p.requires_grad
    if method.is_matrix:
        merge(model)
        found = {key: p.requires_grad for key, p in model.named_parameters() if key in wanted}
        assert found == wanted
        assert model[5].matrix.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_is_unfrozen_later_trains_at_the_rate_of_the_targets(name: str) -> None:
    finals = []
    for group in ("from the start", "added later"):
        _, controller = reparametrized(name)
        target = controller.targets["3"]
        own = target.parameters()
        for p in own:
            p.requires_grad_(False)
        every = list(controller.model.parameters())
        given = every if group == "from the start" else [p for p in every if p.requires_grad]
        optimizer = OPTIMIZERS[kind_for(name)](given)
        controller.attach(optimizer)
        for step in range(2):
            take_step(controller, optimizer, step)
        for p in own:
            p.requires_grad_(True)
        if group == "added later":
            optimizer.add_param_group({"params": own})
        for step in range(2, STEPS):
            take_step(controller, optimizer, step)
        finals.append({key: p.detach() for key, p in controller.model.named_parameters()})
    assert_same(*finals)


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_structure_never_trains_cannot_be_unfrozen_in_silence(
    name: str, attached: bool
) -> None:
    runs = []
    for unfreezes in (False, True):
        model, controller = reparametrized(name)
        fixed = controller.fixed()
        wanted = {key for key, p in model.named_parameters() if not p.requires_grad and p.numel()}
        assert len(fixed) == len(wanted)
        optimizer = OPTIMIZERS[kind_for(name)](model.parameters())
        if attached:
            controller.attach(optimizer)
        if unfreezes:
            model.requires_grad_(True)
            if fixed:
                with pytest.raises(ValueError, match=r"was made trainable.*controller\.fixed\(\)"):
                    take_step(controller, optimizer, 0) if attached else controller.attach(
                        optimizer
                    )
            for p in fixed.values():
                p.requires_grad_(False)
        if not attached:
            controller.attach(optimizer)
        for step in range(STEPS):
            take_step(controller, optimizer, step)
        runs.append(dict(model.state_dict()))
    assert_same(*runs)


# The smallest inputs


def test_a_frozen_kernel_is_not_projected_when_the_method_is_attached() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    controller = reparametrize(model, method_of("trp"))
    assert list(controller.targets) == ["1"]
    controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model[0].weight, before)


def test_a_raw_matrix_is_trained_again_after_merging() -> None:
    model = network()
    reparametrize(model, method_of("low_rank"), ["5:matrix"])
    merge(model)
    assert model[5].matrix.requires_grad


def test_the_summary_counts_targets_and_gives_every_reason_once() -> None:
    model = nn.Sequential(*[nn.Linear(9, 9) for _ in range(7)])
    for layer in model[1:6]:
        layer.requires_grad_(False)
    assert reparametrize(model, method_of("full")).summary() == (
        "Full on 2 weights; left alone: 1, 2, 3 and 2 more (it is frozen, with "
        "requires_grad=False; make it trainable before it gets a structure)"
    )
    assert reparametrize(network(), method_of("full"), ["3"]).summary() == "Full on 1 weight"
