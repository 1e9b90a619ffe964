"""A batch of no samples gives no outputs, and leaves what a network remembers alone."""

import pytest
import torch
from archzoo.layers.lowrank import reestimate_batch_norm
from archzoo.layers.lowrank.input_moments import collect_moments
from archzoo.zoo import certify, model_info, residuals
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.certify.lower_bound import lipschitz_estimate

from ..tiers import tiered
from .small_models import KINDS, NANO, build, example, fitting, loss_of

training = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])


def memory(model):
    """Return the buffers; how many batches a norm has seen says nothing about what was in them."""
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if not name.endswith("num_batches_tracked")
    }


def check(model, x, shape, training):
    model.train(training)
    before = memory(model)
    logits = model(x)
    assert logits.shape == shape
    loss_of(logits).backward()
    for parameter in model.parameters():
        assert parameter.grad is None or not parameter.grad.any()
    with torch.no_grad():
        assert model(x).shape == shape
    for name, buffer in memory(model).items():
        assert torch.equal(buffer, before[name]), name


@training
@pytest.mark.parametrize("name", KINDS)
def test_no_samples_give_no_outputs_and_move_no_statistics(name, training):
    model, x = build(name), example(name, 2)
    check(model, x[:0], (0, *model.eval()(x).shape[1:]), training)


@training
@pytest.mark.parametrize(
    ("name", "residual"),
    tiered(fitting(NANO), lambda name, residual: name in ("vit_nano", "resnet_nano")),
)
def test_so_it_is_over_every_residual(name, residual, training):
    model, x = build(name, residual=residual), example(name, 2)
    check(model, x[:0], (0, *model.eval()(x).shape[1:]), training)


@training
@pytest.mark.parametrize("method", methods.names())
def test_so_it_is_under_every_low_rank_method(method, training):
    model, x = build("resnet_nano", lowrank=method), example("resnet_nano", 2)
    check(model, x[:0], (0, model.num_classes), training)


@training
@pytest.mark.parametrize("residual", residuals.names())
def test_no_tokens_give_no_logits(residual, training):
    model, tokens = build("gpt_nano", residual=residual), example("gpt_nano", 2)
    check(model, tokens[:, :0], (2, 0, model.num_classes), training)


@pytest.mark.parametrize("block", ["ldlt", "sll", "aol", "orthogonal"])
@pytest.mark.parametrize("downsample", ["unshuffle", "pool"])
def test_so_it_is_in_every_lipschitz_block(block, downsample):
    options = {"block": block, "downsample": downsample}
    assert set(options) <= set(model_info("sll_resnet_nano").options)
    model = build("sll_resnet_nano", **options)
    check(model, example("sll_resnet_nano", 2)[:0], (0, model.num_classes), True)


def test_what_needs_samples_says_so():
    model, x = build("resnet_nano").eval(), example("resnet_nano", 2)
    kept = memory(model)
    with pytest.raises(ValueError, match="was given an empty batch of shape .*; leave it out"):
        reestimate_batch_norm(model, [x, x[:0]])
    for name, buffer in memory(model).items():
        assert torch.equal(buffer, kept[name]), name
    with pytest.raises(ValueError, match="was given empty batches only"):
        collect_moments(model, [x[:0]], ["stages.0.branches.0.0"])
    assert collect_moments(model, [x[:0], x], ["stages.0.branches.0.0"])
    with pytest.raises(ValueError, match=r"x must be samples \(N, …\) with N >= 1"):
        certify(model, x[:0])
    with pytest.raises(ValueError, match=r"x must be points \(N, …\) with N >= 1"):
        lipschitz_estimate(model.double(), x[:0].double())
