"""Laws of Flexora: gates start at LoRA, follow the held-out loss, and tell who needs an adapter."""

import copy

import pytest
import torch
from archzoo.layers.lowrank.adapters.adapter import adapt
from archzoo.layers.lowrank.adapters.lora import LoRA
from archzoo.layers.lowrank.adapters.scheduled.flexora import Flexora, gate_gradients
from torch import nn

from .adapter_networks import adapted, example, network

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Sum(nn.Module):
    """Three linear layers, each with its own inputs, whose outputs add up."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(6, 5, bias=False) for _ in range(3)).double()

    def forward(self, inputs):
        return sum(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def test_gates_of_one_are_lora():
    x = drawn(5, 10)
    models = []
    for preset in (Flexora(rank=2), LoRA(rank=2)):
        model = network("linear")
        controller = adapt(model, preset, ["0"], seed=3)
        with torch.no_grad():
            controller.factors()["0"].left.copy_(drawn(8, 2, seed=1))
        models.append(model.eval())
    torch.testing.assert_close(models[0](x), models[1](x), **CLOSE)


def test_a_gate_scales_the_branch_once():
    model, controller = adapted("flexora", "linear")
    structure = controller.factors()["0"]
    with torch.no_grad():
        structure.left.copy_(drawn(8, 2))
        structure.share.fill_(0.5)
    branch = structure.scale * structure.left @ structure.right
    expected = structure.extra.weight + 0.5 * branch
    torch.testing.assert_close(structure.dense(), expected, **CLOSE)
    x = example("linear")
    torch.testing.assert_close(structure.linear(x, None), x @ expected.T, **CLOSE)


def test_the_gradient_of_the_gates_is_that_of_finite_differences():
    model = Sum()
    controller = adapt(model, Flexora(rank=2, batches=1), ["*"])
    found = list(controller.factors().values())
    strengths = drawn(3, seed=5)
    with torch.no_grad():
        for place, factors in enumerate(found):
            factors.left.copy_(drawn(5, 2, seed=place))
    inputs, aim = drawn(3, 7, 6, seed=1), drawn(7, 5, seed=2)

    def loss(strengths):
        for factors, share in zip(found, 3 * strengths.softmax(0), strict=True):
            factors.share.fill_(float(share))
        return (model(inputs) - aim).square().sum()

    controller.held_out = lambda number: loss(strengths)
    found_gradient = gate_gradients(strengths, controller.method._products(controller, 0))
    step, units = 1e-5, torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        differences = [(loss(strengths + step * u) - loss(strengths - step * u)) / (2 * step)
                       for u in units]  # fmt: skip
    # Central differences in float64: rounding of 1e-16 over 1e-5, and steps squared.
    torch.testing.assert_close(found_gradient, torch.stack(differences), rtol=1e-6, atol=1e-7)


def test_the_layer_that_is_needed_ranks_first_and_a_layer_fed_noise_last():
    model = Sum()
    base = copy.deepcopy(model)
    controller = adapt(model, Flexora(rank=2, batches=1, gate_rate=0.05), ["*"])
    changes = drawn(5, 6, seed=8), 0.3 * drawn(5, 6, seed=9)

    def batch(number):
        inputs = drawn(3, 16, 6, seed=number)
        aim = base(inputs).detach() + inputs[0] @ changes[0].T + inputs[1] @ changes[1].T
        noise = drawn(16, 6, seed=1000 + number)  # the third layer sees nothing of its input
        return (model([inputs[0], inputs[1], noise]) - aim).square().mean()

    controller.held_out = lambda number: batch(500 + number)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.02)
    controller.attach(optimizer)
    for number in range(40):
        optimizer.zero_grad()
        batch(number).backward()
        optimizer.step()
    told = controller.report()
    gates = list(told["gates"].values())
    assert gates[0] > gates[1] > gates[2]
    assert sum(gates) == pytest.approx(3)
    assert "layers.0" in told["chosen"] and "layers.2" not in told["chosen"]


def test_a_run_that_was_resumed_moves_its_gates_alike():
    def made():
        controller = adapt(Sum(), Flexora(rank=2, batches=2, gate_every=2), ["*"])
        controller.held_out = lambda number: loss(controller.model, 90 + number)
        return controller

    def loss(model, number):
        return (model(drawn(3, 7, 6, seed=number)) - 1).square().sum()

    def go_on(controller, first):
        optimizer = torch.optim.SGD(controller.model.parameters(), lr=1e-4)
        controller.attach(optimizer)
        for number in range(first, first + 3):
            optimizer.zero_grad()
            loss(controller.model, number).backward()
            optimizer.step()

    whole, cut, again = made(), made(), made()
    go_on(whole, 0)
    whole.optimizers.clear()
    go_on(whole, 3)
    go_on(cut, 0)
    again.model.load_state_dict(cut.model.state_dict())
    again.load_state_dict(cut.state_dict())
    go_on(again, 3)
    one, two = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert whole.step == again.step == 6 and whole.state["moments"].abs().min() > 0


def test_gates_without_held_out_data_are_refused():
    model = network("linear")
    controller = adapt(model, Flexora(rank=2), ["0"])
    with pytest.raises(ValueError, match="there are none; set controller.held_out"):
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    for setting in ("batches", "gate_every", "gate_rate"):
        with pytest.raises(ValueError, match=f"{setting}.* must be "):
            Flexora(**{setting: 0})
