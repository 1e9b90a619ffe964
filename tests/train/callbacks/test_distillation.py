"""Training beside a frozen teacher: its terms, what it leaves alone, and what is refused."""

import csv
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import reparametrize
from archzoo.train.callbacks.distillation import (
    Distillation,
    feature_distance,
    largest_perturbation,
    perturbation_penalty,
)
from archzoo.train.check import check_run
from archzoo.train.errors import RunError
from archzoo.zoo import apply_lowrank, create_model
from archzoo.zoo.axes.lowrank import make_method
from archzoo.zoo.depth import block_outputs, handed_on
from archzoo.zoo.trunk import Trunk
from torch import nn

from ...tiers import tiered
from ...zoo.small_models import build, example
from ..engine.test_loop import Stop, stop_after
from ..small_runs import configure, equal_weights, rows, train, weights

TEACHER = "pretrained:resnet_nano/digits"
PELA = ["model=resnet_nano", "distill=pela", f"distill.teacher={TEACHER}"]
FACTORS = [f"init={TEACHER}", "lowrank=low_rank", "lowrank.rank=0.5"]


def run_of(model: nn.Module) -> Any:
    return SimpleNamespace(model=model, autocast=nullcontext)


def terms(model: nn.Module, teacher: nn.Module, x: torch.Tensor, **how: Any) -> Distillation:
    """A distillation after one step's loss, and its gradients."""
    found = Distillation(teacher.eval().requires_grad_(False), teacher="there", **how)
    run = run_of(model)
    found.start(run)
    loss = model.train()(x).sum() * 0.0
    found.loss(run, loss).backward()
    return found


def test_the_penalty_on_perturbations_is_a_hinge():
    largest = torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    penalty = perturbation_penalty(largest, 1.0)
    assert penalty.item() == pytest.approx((3.0 - 1.0) ** 2 / 4)
    (slope,) = torch.autograd.grad(penalty, largest)
    assert slope.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_the_largest_perturbation_is_the_largest_entry_and_not_a_norm():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(4, 6, 3, groups=2)).double()
    model = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(4, 6, 3, groups=2)).double()
    model.load_state_dict(dense.state_dict())
    method = make_method({"name": "fixed_ranks", "ranks": {"0": 2, "1": 2}})
    controller = reparametrize(model, method, ["0", "1"])
    for name, layer in (("0", model[0]), ("1", model[1])):
        gap = (layer.to_dense().weight - dense.get_submodule(name).weight).abs().max()
        found = largest_perturbation(controller.targets[name], dense)
        torch.testing.assert_close(found, gap.detach(), rtol=1e-12, atol=1e-12)


def test_features_count_each_block_alike():
    a, b = [torch.ones(2, 3), torch.ones(8, 100)], [torch.zeros(2, 3), -torch.ones(8, 100)]
    assert feature_distance(a, b) == pytest.approx((1.0 + 4.0) / 2)


KINDS = ["resnet_nano", "mlp_nano", "vit_nano", "gpt_nano"]
RESIDUALS = tiered(["add", "block_attnres", "delta", "hyper_connections"], ["add", "block_attnres"])


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", KINDS)
def test_hooks_see_what_every_block_hands_on(name, residual):
    model, seen = build(name, residual=residual).eval(), []
    for part, by_input in block_outputs(model):
        if by_input:
            part.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
        else:
            part.register_forward_hook(lambda m, given, out: seen.append(out))
    trunks = [m for m in model.modules() if isinstance(m, Trunk)]
    entered = []
    trunks[0].register_forward_pre_hook(lambda m, given: entered.append(given[0]))
    model(example(name))
    features = [*seen]  # what runs again below is seen again
    spans = [len({site.block for site in trunk.residual.sites}) for trunk in trunks]
    assert len(features) == sum(spans)
    if len(trunks) == 1 and name != "gpt_nano":  # whose branches take positions beside
        expected = [h for _, h in handed_on(trunks[0], entered[0], range(spans[0]))]
        for found, value in zip(features, expected, strict=True):
            torch.testing.assert_close(found, value, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", tiered(KINDS, ["mlp_nano", "vit_nano"]))
def test_at_full_rank_all_terms_are_zero_and_of_lower_rank_none_is(name):
    x = example(name)
    x = x.double() if x.is_floating_point() else x
    for method, zero in (("fixed_ranks", True), ("low_rank", False)):
        teacher, model = build(name).double().eval(), build(name).double()
        model.load_state_dict(teacher.state_dict())
        apply_lowrank(model, method)
        for module in (*model.modules(), *teacher.modules()):  # what training alone does
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nn.BatchNorm2d):  # then both norm by the batch
                module.running_mean = module.running_var = None
        found = terms(model, teacher, x, perturbation=1.0, slack=0.0).terms
        assert found.keys() == {"features", "logits", "perturbation"}
        assert all((float(value) < 1e-12) == zero for value in found.values()), found


def test_each_model_runs_once_a_step_and_the_teacher_has_no_gradient():
    teacher, model, runs = build("vit_nano"), build("vit_nano"), []
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    for each in (teacher, model):
        each.register_forward_hook(lambda m, given, out: runs.append(m))
    found = terms(model, teacher, example("vit_nano"))
    assert runs == [model, teacher] and not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in model.trunk.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert found.mine.logits is None and not found.theirs.features


@pytest.mark.long
def test_a_run_logs_its_terms_and_keeps_no_teacher(tmp_path: Path):
    more = [*PELA, *FACTORS, "distill.perturbation=1", "callbacks=[ema]", "trainer.mixup=0.4"]
    train(tmp_path, *more)
    logged = [row for row in rows(tmp_path) if row["split"] == "distill"]
    assert [int(row["step"]) for row in logged] == [6, 12]
    for name in ("features", "logits", "perturbation"):
        assert all(0.0 < float(row[name]) < math.inf for row in logged)
    model = create_model(f"local-dir:{tmp_path}")
    assert weights(tmp_path).keys() == model.state_dict().keys()
    result = (tmp_path / "result.json").read_text()
    assert f'"teacher": "{TEACHER}"' in result


@pytest.mark.long
def test_a_run_that_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: Any):
    more = [*PELA, *FACTORS, "distill.perturbation=1", "distill.slack=0.01"]
    train(tmp_path / "whole", *more)
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stop):
            train(tmp_path / "parts", *more, "trainer.checkpoint_every=4")
    train(tmp_path / "parts", *more, "trainer.checkpoint_every=4", "resume=auto")
    assert equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_teacher_whose_weights_changed_is_refused():
    callback = Distillation(None, teacher=TEACHER)
    callback.weights = "those of now"
    callback.check_state_dict({"weights": "those of now"})
    with pytest.raises(RunError, match="holds other weights than when the run began"):
        callback.check_state_dict({"weights": "those of then"})


def beside(**options: Any) -> Distillation:
    """A callback that has seen a teacher of some options, whose weights are always the same."""
    model = build("gpt_nano", **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    found = Distillation(model.eval(), teacher="there")
    found.start(run_of(build("gpt_nano")))
    return found


ORTHOGONAL = {"name": "orthogonal", "eps": 0.1}
OPTIONS = [{"norm_eps": 0.1}, {"residual": "orthogonal"}, {"residual": ORTHOGONAL}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_teacher_of_other_options_is_refused_though_its_weights_are_the_same(options: Any):
    kept = beside().state_dict()
    beside().check_state_dict(kept)
    other = beside(**options)
    assert other.weights == kept["weights"]
    with pytest.raises(RunError, match=r"is built as .*, and was as .* when the run began") as line:
        other.check_state_dict(kept)
    assert "\n" not in str(line.value)


def test_a_state_of_an_earlier_version_is_compared_by_its_weights():
    found = beside(norm_eps=0.1)
    found.check_state_dict({})
    found.check_state_dict({"weights": found.weights})
    with pytest.raises(RunError, match="holds other weights than when the run began"):
        found.check_state_dict({"weights": "others"})


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch, of its own look
def test_compiled_blocks_give_the_same_losses_nearly(tmp_path: Path):
    found = {}
    for name, more in {"plain": [], "blocks": ["trainer.compile=blocks"]}.items():
        train(tmp_path / name, *PELA, *FACTORS, *more, "trainer.steps=2", "trainer.log_every=1")
        with open(tmp_path / name / "metrics.csv", newline="") as file:
            found[name] = [float(r["loss"]) for r in csv.DictReader(file) if r["split"] == "train"]
    assert found["blocks"] == pytest.approx(found["plain"], rel=1e-3)


def test_half_precision_computes_the_terms_in_float32(tmp_path: Path):
    train(tmp_path, *PELA, *FACTORS, "trainer.amp=bf16", "trainer.steps=2")
    logged = [row for row in rows(tmp_path) if row["split"] == "distill"]
    assert logged and math.isfinite(float(logged[-1]["features"]))


SETTINGS = {
    "distill=pela": "distill.teacher is missing: name a run",
    "distill.features=-1": "distill.features must be at least 0, got -1",
    "distill.slack=-0.1": "distill.slack must be at least 0, got -0.1",
    "distill.features=0 distill.logits=0": "are all 0, so the teacher would have no effect",
    "trainer.compile=true": "use trainer.compile=blocks",
    "trainer.parallel=fsdp": "trainer.parallel=fsdp shards the weights that distill= reads whole",
    "trainer.grad_checkpointing=true": "trainer.grad_checkpointing drops the features",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_does_not_fit_is_one_line(setting: str):
    base = ["model=resnet_nano", "distill=pela"]
    base += [] if setting == "distill=pela" else PELA[2:]
    with pytest.raises(RunError, match=SETTINGS[setting]) as refused:
        check_run(configure(*base, *setting.split()))
    assert "\n" not in str(refused.value)


TEACHERS = {
    "nowhere": "distill.teacher: nowhere is no model|distill.teacher: .*nowhere",
    "resnet_nano": "distill.teacher=resnet_nano is a registered name, which has no weights",
    "pretrained:vit_nano/digits": "the model there, vit_nano, is another than model=resnet_nano",
    "pretrained:resnet_nano/digits-delta": "is another than model=resnet_nano as it is set here",
    "pretrained:resnet_nano_block_attnres/fashion_mnist": "is another than model=resnet_nano",
}


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_teacher_of_another_architecture_is_one_line_and_leaves_no_run(
    teacher: str, tmp_path: Path
):
    with pytest.raises(RunError, match=TEACHERS[teacher]) as refused:
        train(tmp_path / "run", "model=resnet_nano", "distill=pela", f"distill.teacher={teacher}")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_terms_that_the_model_has_not_are_refused(tmp_path: Path):
    with pytest.raises(RunError, match="distill.perturbation needs weights made of factors"):
        train(tmp_path, *PELA, "distill.perturbation=1")
