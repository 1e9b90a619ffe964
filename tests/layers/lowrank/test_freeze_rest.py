"""Freezing what is no target: what stays trained, what a checkpoint remembers, what is refused."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import Controller, LowRank, ReLoRA, reparametrize
from torch import nn

PATTERNS: dict[tuple[str, ...], set[str]] = {
    (): set(),
    ("head",): {"head.weight", "head.bias"},
    ("*norm*",): {"norm.weight", "norm.bias"},
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(12, 16))
    model.add_module("norm", nn.LayerNorm(16))
    model.add_module("head", nn.Linear(16, 3))
    return model


def made(method: type = LowRank) -> Controller:
    return reparametrize(network(), method(rank=2), ["body"])


@pytest.mark.parametrize("method", [LowRank, ReLoRA])
@pytest.mark.parametrize("also", PATTERNS, ids=str)
def test_only_targets_and_what_is_named_stay_trained(method, also):
    controller = made(method)
    trained = {n for n, p in controller.model.named_parameters() if p.requires_grad}
    frozen = controller.freeze_rest(also)
    factors = {"body.structure.left", "body.structure.right"}
    assert trained - set(frozen) == factors | PATTERNS[also]
    left = {n for n, p in controller.model.named_parameters() if p.requires_grad}
    assert left == factors | PATTERNS[also]


def test_a_gradient_that_was_there_moves_nothing_any_more():
    controller = made()
    model = controller.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    controller.attach(optimizer)
    model(torch.randn(4, 12)).square().sum().backward()
    controller.freeze_rest()
    before = copy.deepcopy(model.head.state_dict())
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in model.head.state_dict().items())


def test_a_checkpoint_remembers_what_was_frozen():
    one, two, other = made(), made(), made()
    one.freeze_rest(["head"])
    with pytest.raises(ValueError, match="trained with all frozen but the targets and .*head"):
        other.load_state_dict(one.state_dict())
    two.freeze_rest(["head"])
    two.load_state_dict(one.state_dict())
    older = {k: v for k, v in other.state_dict().items() if k != "trains_also"}
    made().load_state_dict(older)
    with pytest.raises(ValueError, match="trained with nothing else frozen, this run has all"):
        two.load_state_dict(older)


def test_a_pattern_that_matches_nothing_is_refused_and_nothing_frozen():
    controller = made()
    with pytest.raises(ValueError, match="train_also: 'haed' matches no parameter.*head"):
        controller.freeze_rest(["head", "haed"])
    assert all(p.requires_grad for p in controller.model.parameters())
    assert controller.state_dict()["trains_also"] is None
