"""Evaluation mode: given back module by module, by one owner, whatever evaluates a model."""

import ast
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import archzoo.layers
import pytest
import torch
from archzoo.layers.lipschitz import export_plain
from archzoo.layers.lowrank import memory_report, reestimate_batch_norm
from archzoo.layers.lowrank.cost_report import lowrank_report
from archzoo.layers.lowrank.input_moments import collect_moments
from archzoo.layers.modes import evaluating
from archzoo.train.callbacks.feature_radii import stream_norms
from archzoo.train.engine.metrics import evaluate
from archzoo.zoo import certify, create_model, residual_expansion
from archzoo.zoo.certify.lower_bound import lipschitz_estimate
from archzoo.zoo.inspect.depth_mixing import depth_mixing_matrix, trace
from archzoo.zoo.inspect.plots import plot_depth_mixing, plot_magnitudes
from archzoo.zoo.transform.compress import decompose, factorize
from archzoo.zoo.transform.costs import costs_of, count_macs
from archzoo.zoo.transform.plain_layers import plain_layers
from archzoo.zoo.transform.rank_search import search_ranks
from torch import nn

ROOT = Path(archzoo.layers.__file__).resolve().parents[1]
CODE = sorted(f for area in ("layers", "zoo", "train") for f in (ROOT / area).rglob("*.py"))
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([1, 0])


def network(name: str = "") -> nn.Module:
    """A ResNet in training with one frozen batch norm, as a function of EVALUATIONS takes it."""
    depths = {"widths": (4,), "depths": (1,)} if name == "residual_expansion" else {}
    options = {"widths": (4, 6), "depths": (1, 1)} | depths
    model = create_model("resnet_nano", **options).train()
    if name == "lipschitz_estimate":
        model.double()
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    return model


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def searched(model: nn.Module) -> None:
    controller = factorize(model)
    costs = costs_of(controller, "parameters")
    before = modes(controller.model)
    search_ranks(controller, costs, 0.9 * costs.total, lambda m: float(m(X).square().mean()))
    assert modes(controller.model) == before


EVALUATIONS: dict[str, Callable[[nn.Module], Any]] = {
    "certify": lambda m: certify(m, X, attack_steps=2),
    "evaluate": lambda m: evaluate(m, [(X, Y)], "image", torch.device("cpu"), nullcontext),
    "depth_mixing_matrix": lambda m: depth_mixing_matrix(m, X, stage=0),
    "trace": lambda m: trace(m, X),
    "plot_depth_mixing": lambda m: plot_depth_mixing(depth_mixing_matrix(m, X, stage=0)),
    "plot_magnitudes": lambda m: plot_magnitudes({"a": trace(m, X)}),
    "stream_norms": lambda m: stream_norms(m, X),
    "collect_moments": lambda m: collect_moments(m, [X], ["stem.0"]),
    "reestimate_batch_norm": lambda m: reestimate_batch_norm(m, [X]),
    "lowrank_report": lambda m: lowrank_report(m, X),
    "memory_report": lambda m: memory_report(m),
    "count_macs": lambda m: count_macs(m, X),
    "decompose": lambda m: decompose(m, energy=0.1),
    "search_ranks": searched,
    "plain_layers": plain_layers,
    "export_plain": export_plain,
    "residual_expansion": lambda m: residual_expansion(m, X),
    "lipschitz_estimate": lambda m: lipschitz_estimate(m, X.double(), power=1, steps=1),
}
NEVER_RUN = {
    "memory_report": "counts bytes",
    "decompose": "factors the weights",
    "plain_layers": "copies the layers",
    "export_plain": "copies the layers",
}
"""Functions that call no module, so that none can fail in them, and what they do instead."""


@pytest.mark.parametrize("name", EVALUATIONS)
def test_whatever_evaluates_leaves_every_module_in_its_own_mode(name):
    model = network(name)
    before = modes(model)
    EVALUATIONS[name](model)
    assert modes(model) == before


def place(model: nn.Module, position: int) -> nn.Module:
    """The first or the last layer with weights."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)][position]


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("name", [n for n in EVALUATIONS if n not in NEVER_RUN])
def test_an_error_in_the_forward_leaves_every_module_in_its_own_mode(name, position):
    model = network(name)
    before = modes(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    place(model, position).register_forward_hook(fail)
    # As it was raised, or named with the path of its module.
    with pytest.raises((RuntimeError, ValueError), match="on purpose"):
        EVALUATIONS[name](model)
    assert modes(model) == before


@pytest.mark.parametrize("name", NEVER_RUN)
def test_what_runs_no_forward_is_named_rightly(name):
    model = network(name)
    ran: list[nn.Module] = []
    for position in (0, -1):
        place(model, position).register_forward_hook(lambda m, *_: ran.append(m))
    EVALUATIONS[name](model)
    assert not ran


def test_a_refusal_leaves_every_module_in_its_own_mode():
    model = network()
    before = modes(model)
    with pytest.raises(ValueError, match="one trunk"):
        residual_expansion(model, X)
    with pytest.raises(ValueError, match="model must be in float64, .* stem.0.weight in"):
        lipschitz_estimate(model, X)
    with pytest.raises(ValueError, match="empty batch"):
        reestimate_batch_norm(model, [X[:0]])
    assert modes(model) == before


def test_generating_text_leaves_every_module_in_its_own_mode():
    model = create_model("gpt_nano").train()
    model.get_submodule("trunk.branches.0").eval()
    before = modes(model)
    model.generate(torch.zeros(1, 2, dtype=torch.long), 2)
    assert modes(model) == before
    with pytest.raises(IndexError):
        model.generate(torch.full((1, 2), 10**6), 2)
    assert modes(model) == before


def test_an_evaluation_between_epochs_keeps_frozen_statistics_frozen():
    model = network()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    before = frozen.running_mean.clone()
    evaluate(model, [(X, Y)], "image", torch.device("cpu"), nullcontext)
    model(X)
    assert torch.equal(frozen.running_mean, before)


def test_contexts_nest_and_modules_may_be_shared_added_and_taken_out():
    shared = nn.Dropout().eval()
    model = nn.Sequential(shared, nn.Linear(2, 2), shared, nn.BatchNorm1d(2))
    gone = model[1]
    with evaluating(model):
        with evaluating(model, training=[model[3]]):
            assert [m.training for m in model] == [False, False, False, True]
        assert not any(m.training for m in model.modules())
        model[1], added = nn.Identity(), nn.Identity().eval()
        model.append(added)
    assert model.training and model[3].training and gone.training
    assert not shared.training and not added.training


def test_a_train_method_of_a_class_runs_in_both_directions():
    class Merging(nn.Module):
        merged = False

        def train(self, mode: bool = True) -> "Merging":
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(), Merging().eval())
    with evaluating(model):
        assert [m.merged for m in model] == [True, True]
    assert [m.merged for m in model] == [False, True]
    assert [m.training for m in model] == [True, False]


def toggles(tree: ast.AST) -> list[int]:
    """Lines that switch the mode of a module which was there before.

    A fresh copy may be made in a mode: `copy.deepcopy(m).eval()`, `made.train(m.training)`.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [p for t in targets for p in ast.walk(t)]
            if any(isinstance(p, ast.Attribute) and p.attr == "training" for p in parts):
                found.append(node.lineno)
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        on_a_result = isinstance(node.func.value, ast.Call)
        inherits = bool(node.args) and getattr(node.args[0], "attr", "") == "training"
        if node.func.attr == "eval" and not on_a_result:
            found.append(node.lineno)
        if node.func.attr == "train" and not (on_a_result or inherits):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("file", CODE, ids=lambda f: str(f.relative_to(ROOT)))
def test_nobody_else_switches_modes(file):
    if file == ROOT / "layers" / "modes.py":
        return
    assert not toggles(ast.parse(file.read_text()))


@pytest.mark.parametrize(
    "line",
    ["m.eval()", "m.train()", "m.train(was)", "m.training = x", "a, m.training = 1, 2"],
)
def test_the_test_of_switches_sees_one(line):
    assert toggles(ast.parse(line)) == [1]
