"""Soft labels of a teacher of any architecture: the divergence, a run beside it, and refusals."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from archzoo.train.callbacks.soft_labels import SoftLabels, soft_divergence
from archzoo.train.check import check_run
from archzoo.train.errors import RunError
from archzoo.zoo import create_model
from torch import nn

from ...zoo.small_models import build, example
from ..engine.test_loop import Stop, stop_after
from ..small_runs import configure, equal_weights, rows, train, weights

TEACHER = "pretrained:gpt_nano_block_attnres/bytes"
SOFT = [
    *("model=gpt_nano", "init=pretrained:gpt_nano/bytes", "adapter=lora", "adapter.rank=2"),
    *("data=bytes", "data.context_length=64", "trainer.batch_size=8", "optim.lr=0.01"),
    *("distill=soft_labels", f"distill.teacher={TEACHER}", "model.width=96"),
    "model.num_heads=4",
]


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A text of some kilobytes."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"def f{k}(x):\n    return x + {k * k}\n" for k in range(400)))
    return f"data.path={path}"


def logits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    mine, theirs = (torch.randn(3, 5, 7, generator=g, dtype=torch.float64) for _ in range(2))
    return mine.requires_grad_(), theirs


def after_a_step(model: nn.Module, teacher: nn.Module, x: torch.Tensor, **how: Any) -> Any:
    """Soft labels after one step's loss, and that loss."""
    found = SoftLabels(teacher.eval().requires_grad_(False), teacher="there", **how)  # type: ignore[arg-type]
    run: Any = SimpleNamespace(model=model, autocast=nullcontext)
    found.start(run)
    given = model.train()(x)
    targets = x.roll(-1, 1) if x.dtype == torch.int64 else torch.zeros(len(x), dtype=torch.int64)
    found.logits(run, given, targets)
    loss = found.loss(run, given.sum() * 0.0 + 2.0)
    loss.backward()
    return found, loss


@pytest.mark.parametrize("seed", range(3))
def test_the_divergence_is_that_of_the_probabilities(seed: int):
    mine, theirs = logits(seed)
    p, q = theirs.softmax(-1), mine.softmax(-1)
    expected = (p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(soft_divergence(mine, theirs), expected, rtol=1e-12, atol=1e-14)
    assert (soft_divergence(mine, theirs) >= 0).all()
    assert not soft_divergence(mine, mine.detach()).any()


def test_its_slope_is_the_difference_of_the_probabilities():
    mine, theirs = logits(0)
    (slope,) = torch.autograd.grad(soft_divergence(mine, theirs).sum(), mine)
    torch.testing.assert_close(slope, mine.softmax(-1) - theirs.softmax(-1), rtol=0.0, atol=1e-14)


def test_at_high_temperature_it_is_half_the_variance_of_the_logits_difference():
    mine, theirs = logits(1)
    expected = (mine - theirs).var(-1, unbiased=False) / 2
    torch.testing.assert_close(soft_divergence(mine, theirs, 1e4), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3, 1e4])
def test_half_and_single_precision_are_compared_in_float64(dtype, temperature):
    mine, theirs = (part.detach().to(dtype) for part in logits(2))
    found = soft_divergence(mine, theirs, temperature)
    assert found.dtype == torch.float32 and (found >= 0).all()
    torch.testing.assert_close(
        found.double(), soft_divergence(mine.double(), theirs.double(), temperature)
    )


def test_a_class_that_both_exclude_counts_for_nothing_and_one_that_only_the_model_does_for_all():
    mine, theirs = logits(3)
    none = torch.full((3, 5, 1), -torch.inf, dtype=torch.float64)
    whole = torch.cat([mine, none], -1)
    found = soft_divergence(whole, torch.cat([theirs, none], -1))
    torch.testing.assert_close(found, soft_divergence(mine, theirs))
    slopes = (torch.autograd.grad(f.sum(), mine)[0] for f in (found, soft_divergence(mine, theirs)))
    torch.testing.assert_close(*slopes)
    row = torch.tensor([[0.0, -torch.inf]])
    assert soft_divergence(row, row).tolist() == [0.0]
    assert soft_divergence(row, torch.zeros(1, 2)).tolist() == [torch.inf]


@pytest.mark.parametrize("temperature", [1e-3, 0.7, 1.0, 3.0, 1e4])
def test_equal_logits_have_no_loss_and_no_gradient_not_even_of_rounding(temperature):
    mine = torch.randn(50, 300, requires_grad=True)
    found = soft_divergence(mine, mine.detach().clone(), temperature)
    (slope,) = torch.autograd.grad(found.mean(), mine)
    assert not found.any() and not slope.any()


def test_a_copy_of_the_teacher_has_no_loss_and_no_gradient():
    teacher, model = build("gpt_nano"), build("gpt_nano")
    model.load_state_dict(teacher.state_dict())
    found, loss = after_a_step(model, teacher, example("gpt_nano"))
    assert loss.item() == 0.0 and not found.terms["divergence"].any()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_share_mixes_the_divergence_with_the_loss_of_the_labels():
    model, teacher = build("gpt_nano"), build("gpt_nano", residual="delta")
    found, loss = after_a_step(model, teacher, example("gpt_nano"), share=0.25)
    divergence = float(found.terms["divergence"])
    assert divergence > 0
    assert loss.item() == pytest.approx(0.75 * 2.0 + 0.25 * divergence, rel=1e-6)
    assert all(p.grad is None for p in teacher.parameters())


def test_positions_without_a_target_do_not_count():
    model, teacher = build("gpt_nano").eval(), build("gpt_nano", residual="delta").eval()
    x = example("gpt_nano")
    found = SoftLabels(teacher.requires_grad_(False), teacher="there")
    run: Any = SimpleNamespace(model=model, autocast=nullcontext)
    found.start(run)
    model.train()
    targets = x.roll(-1, 1)
    targets[:, 3:] = -100
    found.logits(run, model(x), targets)
    found.loss(run, torch.zeros(()))
    expected = soft_divergence(model(x)[:, :3], teacher(x)[:, :3]).mean()
    assert float(found.terms["divergence"]) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.long
def test_beside_a_teacher_that_equals_it_no_weight_moves_whatever_the_size_of_a_step(
    tmp_path: Path,
):
    place = "pretrained:vit_nano/digits"
    given = ["model=vit_nano", f"init={place}", "distill=soft_labels", f"distill.teacher={place}"]
    train(tmp_path, *given, "optim=adamw", "optim.lr=0.01", "optim.weight_decay=0")
    kept, found = create_model(place).state_dict(), weights(tmp_path)
    assert all(torch.equal(value, found[key]) for key, value in kept.items())


@pytest.mark.long
def test_the_divergence_falls_on_a_fixed_batch(text: str, tmp_path: Path):
    train(tmp_path / "run", *SOFT, text, "trainer.steps=30", "trainer.evaluate_every=10")
    logged = [
        float(row["divergence"]) for row in rows(tmp_path / "run") if row["split"] == "distill"
    ]
    assert len(logged) == 3 and logged[-1] > 0
    tokens = torch.frombuffer(bytearray(b"def f7(x):\n    return x + 49\n" * 4), dtype=torch.uint8)
    batch = tokens[:64].long().view(2, 32)
    teacher = create_model(TEACHER).eval()
    before = create_model("pretrained:gpt_nano/bytes").eval()
    after = create_model(f"local-dir:{tmp_path / 'run'}").eval()
    with torch.no_grad():
        far, near = (soft_divergence(m(batch), teacher(batch)).mean() for m in (before, after))
    assert near < 0.9 * far


@pytest.mark.long
def test_a_run_that_stopped_goes_on_to_the_same_bits(text: str, tmp_path: Path, monkeypatch: Any):
    train(tmp_path / "whole", *SOFT, text)
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stop):
            train(tmp_path / "parts", *SOFT, text, "trainer.checkpoint_every=4")
    train(tmp_path / "parts", *SOFT, text, "trainer.checkpoint_every=4", "resume=auto")
    assert equal_weights(tmp_path / "whole", tmp_path / "parts")


SETTINGS = {
    "distill=soft_labels": "distill.teacher is missing: name a run",
    "distill.share=0": r"distill.share must lie in \(0, 1\], got 0",
    "distill.share=1.5": r"distill.share must lie in \(0, 1\], got 1.5",
    "distill.temperature=0": r"distill.temperature must lie in \[0.001, 10000\], got 0",
    "distill.temperature=1e-4": r"distill.temperature must lie in \[0.001, 10000\], got 0.0001",
    "distill.temperature=1e5": r"distill.temperature must lie in \[0.001, 10000\], got 100000",
    "trainer.compile=true": "use trainer.compile=blocks",
    "trainer.parallel=fsdp": "use trainer.parallel=ddp",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_does_not_fit_is_one_line(setting: str):
    base = ["distill=soft_labels"]
    base += [] if setting in base else ["distill.teacher=pretrained:resnet_nano/digits"]
    with pytest.raises(RunError, match=SETTINGS[setting]) as refused:
        check_run(configure("model=resnet_nano", *base, setting))
    assert "\n" not in str(refused.value)


DIGITS = "model=resnet_nano"
TEACHERS = {
    "pretrained:gpt_nano/bytes": "it reads tokens, the data give image; name another",
    "pretrained:mlp_nano/breast_cancer": "distill.teacher=pretrained:mlp_nano/breast_cancer: ",
    "pretrained:resnet_nano_block_attnres/fashion_mnist": "the model takes no samples|classes",
}


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_teacher_of_other_inputs_or_classes_is_one_line(teacher: str, tmp_path: Path):
    with pytest.raises(RunError, match=TEACHERS[teacher]) as refused:
        train(tmp_path / "run", DIGITS, "distill=soft_labels", f"distill.teacher={teacher}")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_teacher_of_shorter_contexts_is_one_line(text: str, tmp_path: Path):
    given = ["model=gpt_nano", "data=bytes", "data.context_length=128", "trainer.batch_size=4"]
    given += ["distill=soft_labels", f"distill.teacher={TEACHER}", text]
    with pytest.raises(RunError, match="it learned contexts of 64 tokens, the data have 128; set"):
        train(tmp_path / "run", *given)


def test_logits_that_are_odds_are_refused():
    model: Any = SimpleNamespace(logits_are_odds=True)
    run: Any = SimpleNamespace(model=model)
    with pytest.raises(RunError, match="use distill=pela"):
        SoftLabels(None, teacher="there").start(run)
