"""The Poincaré ResNet: its parts, its twin, its depth and what it refuses."""

import pytest
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    MidpointBatchNorm,
    PoincareConv2d,
    mobius_add_tangents,
)
from archzoo.layers.residual import GyroBlockAttnRes, Mobius
from archzoo.zoo import create_model, use_hyperbolic_head
from torch import nn

from ..small_models import build, example, on_meta


def test_it_has_the_parameters_of_the_published_network():
    # The released network of widths 8, 16, 32 and 20 layers has 68,757.
    assert sum(p.numel() for p in on_meta("poincare_resnet20").parameters()) == 68_757
    # The twin has a scale for each channel in place of one for each norm, 19 norms.
    twin = sum(p.numel() for p in on_meta("euclidean_resnet20").parameters())
    assert twin == 68_757 + 7 * 8 + 6 * 16 + 6 * 32 - 19


def test_a_block_is_a_moebius_sum_and_a_relu():
    model = build("poincare_resnet_nano", curvature=0.3).double().eval()
    stage = model.stages[0]
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    out = model.norm(stage(x))
    h = x
    for branch in stage.branches:
        h = h.relu()
        h = mobius_add_tangents(branch(h), h, 0.3, dim=1)
    torch.testing.assert_close(out, h.relu(), rtol=0, atol=0)


def test_all_layers_lie_in_one_ball():
    model = build("poincare_resnet_nano", learned_curvature=True)
    balls = {id(m) for m in model.modules() if isinstance(m, BallCurvature)}
    assert len(balls) == 1
    kinds = (PoincareConv2d, MidpointBatchNorm, Mobius)
    used = {type(m) for m in model.modules() if isinstance(m, kinds)}
    assert used == set(kinds)
    model(example("poincare_resnet_nano")).square().sum().backward()
    (ball,) = (m for m in model.modules() if isinstance(m, BallCurvature) if m.log_ratio.grad)
    assert ball.log_ratio.grad.isfinite()


def test_a_residual_in_another_ball_is_refused():
    with pytest.raises(ValueError, match="mixes balls"):
        create_model("poincare_resnet_nano", residual={"name": "mobius", "curvature": 1.0})
    create_model("poincare_resnet_nano", residual={"name": "mobius", "curvature": 0.1})


def test_a_residual_with_a_history_gets_pre_activated_branches():
    model = build("poincare_resnet_nano", residual="gyro_block_attnres")
    assert isinstance(model.stages[0].residual, GyroBlockAttnRes)
    assert {stage.norm_position for stage in model.stages} == {"pre"}
    assert {s.norm_position for s in build("poincare_resnet_nano").stages} == {"post"}
    with pytest.raises(ValueError, match="keeps more than the stream"):
        create_model("poincare_resnet_nano", residual="gyro_attnres", activation="post")


@pytest.mark.parametrize("init", ["dirac", "identity", "normal"])
def test_no_depth_of_a_fresh_network_collapses_or_explodes(init):
    model = build("poincare_resnet56", init=init, img_size=16)
    norms = []
    for stage in model.stages:
        for branch in stage.branches:
            branch.register_forward_hook(
                lambda _, given, out: norms.extend(
                    t.norm(dim=1).mean().item() for t in (*given, out)
                )
            )
    with torch.no_grad():
        logits = model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    # Every norm has a mean squared distance of 1 from the origin, so branches have norms below 1/2;
    # 27 of them add up to at most 14.
    assert len(norms) == 54 and min(norms) > 0.05 and max(norms) < 14
    assert logits.isfinite().all() and logits.std() > 1e-3


def test_the_flat_twin_has_ordinary_layers_and_may_still_add_points():
    flat = build("euclidean_resnet20", depths=(1,), widths=(4,))
    kinds = {type(m).__name__ for m in flat.modules()}
    assert {"Conv2d", "BatchNorm2d", "Add", "Linear"} <= kinds
    assert not kinds & {"PoincareConv2d", "MidpointBatchNorm", "BallCurvature", "PoincareMLR"}
    mixed = build("poincare_resnet_nano", geometry="euclidean", head="linear", curvature=0.5)
    assert mixed.stages[0].residual.curvature() == 0.5


@pytest.mark.parametrize("option", ["geometry", "init", "averaging", "head"])
def test_an_unknown_choice_is_refused_by_name(option):
    with pytest.raises(ValueError, match=rf"{option} must be .*'x'"):
        create_model("poincare_resnet_nano", **{option: "x"})


@pytest.mark.parametrize("curvature", [0.0, -1.0, float("nan")])
def test_a_curvature_that_is_not_positive_is_refused(curvature):
    with pytest.raises(ValueError, match="curvature must be a positive number"):
        create_model("poincare_resnet_nano", curvature=curvature)


def test_any_backbone_takes_a_hyperbolic_head():
    model = use_hyperbolic_head(build("mlp_nano"), curvature=0.5, clip=2.0)
    x = example("mlp_nano")
    assert model(x).shape == (2, 10)
    model.reset_classifier(4)
    assert model(x).shape == (2, 4) and model.head.clip == 2.0
    features = 100 * model.forward_head(model.forward_features(x), pre_logits=True)
    # What is clipped lies on one sphere, so longer features change nothing.
    torch.testing.assert_close(model.head(features), model.head(10 * features))
    model.reset_classifier(0)
    assert isinstance(model.head, nn.Identity)
