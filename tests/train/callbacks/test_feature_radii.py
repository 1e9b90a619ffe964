"""The log tells where features lie and in which space, and measuring changes nothing."""

import csv
import math

import pytest
import torch
from archzoo.layers.hyperbolic import BallCurvature, poincare
from archzoo.layers.residual import Site
from archzoo.train.callbacks import Geometry
from archzoo.train.callbacks.feature_radii import curvatures, stream_norms
from archzoo.train.errors import RunError
from archzoo.zoo import create_model
from archzoo.zoo.axes.residuals import make_residual
from archzoo.zoo.trunk import Trunk
from torch import nn

from ..small_runs import equal_weights, train


def images(size=8, channels=1):
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(0))


def logged(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "geometry"]


def test_a_euclidean_stream_is_measured_by_its_length():
    model, x = create_model("mlp_nano").eval(), images()
    with torch.no_grad():
        length = model.trunk(model.stem(x.flatten(1))).double().norm(dim=1)
    mean, largest = stream_norms(model, x)["trunk"]
    assert (mean, largest) == pytest.approx((float(length.mean()), float(length.max())))
    assert curvatures(model) == {}


@pytest.mark.parametrize("c", [0.1, 2.0])
def test_a_stream_of_tangents_is_measured_by_the_distance_of_its_points(c):
    sites = [Site("mlp", 0)]
    residual = make_residual({"name": "mobius", "curvature": c}, 6, sites, channel_dim=1)
    trunk = Trunk(residual, [nn.Identity()], [nn.Identity()], [0.0])
    x = images(2, 6)
    tangents = trunk.eval()(x)
    distance = poincare.distance0(poincare.expmap0(tangents.double(), c, dim=1), c, dim=1)
    mean, largest = stream_norms(nn.Sequential(trunk), x)["0"]
    assert mean == pytest.approx(float(distance.mean()), rel=1e-6)
    assert largest == pytest.approx(float(distance.max()), rel=1e-6)


@pytest.mark.parametrize("name", ["resnet_nano", "poincare_resnet_nano"])
def test_every_stage_is_measured_where_it_ends(name):
    model, x = create_model(name).eval(), images(16, 3)
    found = stream_norms(model, x)
    assert list(found) == ["stages.0", "stages.1"]
    seen = []
    model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    length = seen[0].double().norm(dim=1) * (2 if curvatures(model) else 1)
    expected = float(length.mean()), float(length.max())
    assert found["stages.1"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("residual", ["add", "attnres", "deepnorm", "hyper_connections"])
def test_every_mechanism_is_measured_by_what_it_closes(residual):
    model, x = create_model("mlp_nano", residual=residual).eval(), images()
    with torch.no_grad():
        length = model.trunk(model.stem(x.flatten(1))).double().norm(dim=1)
    assert stream_norms(model, x)["trunk"][1] == pytest.approx(float(length.max()))


def test_measuring_leaves_the_model_as_it_was():
    model, x = create_model("resnet_nano", in_chans=1), images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    stream_norms(model, x)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any("close" in vars(stage.residual) for stage in model.stages)


@pytest.mark.compiles
def test_a_compiled_model_is_measured_without_compiling_it_again():
    model, x = create_model("mlp_nano").eval(), images()
    expected = stream_norms(model, x)

    def refuse(graph, inputs):
        raise AssertionError("compiled")

    model.compile(backend=refuse)
    assert stream_norms(model, x) == expected


def test_curvatures_are_counted_once_each():
    shared = BallCurvature(0.5, learned=True)
    with torch.no_grad():
        shared.log_ratio.fill_(math.log(2.0))
    other = BallCurvature(0.5, learned=True)
    fixed = [BallCurvature(0.1), BallCurvature(0.1), BallCurvature(3.0)]
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(shared, other), "c": nn.Sequential(*fixed)}
    )
    assert curvatures(model) == pytest.approx({"a": 1.0, "b.1": 0.5, "c.0": 0.1, "c.2": 3.0})


@pytest.mark.long
def test_a_run_logs_them_at_each_evaluation_and_goes_on_as_without(tmp_path):
    options = ["model=resnet_nano"]
    train(tmp_path / "with", *options, "callbacks=[geometry]", "callbacks.geometry.samples=16")
    train(tmp_path / "without", *options)
    assert equal_weights(tmp_path / "with", tmp_path / "without")
    rows = logged(tmp_path / "with")
    assert [row["step"] for row in rows] == ["6", "12"]
    for row in rows:
        for stage in ("stages.0", "stages.1"):
            assert 0 < float(row[f"norm_mean/{stage}"]) <= float(row[f"norm_max/{stage}"])
        assert "curvature" not in row
    model = create_model(f"local-dir:{tmp_path / 'with'}")
    assert curvatures(model) == {}


@pytest.mark.long
def test_a_ball_is_logged_with_its_curvature_through_every_logger(tmp_path):
    options = ["model=poincare_resnet_nano", "model.learned_curvature=true", "optim.lr=0.05"]
    loggers = ["callbacks=[geometry]", "logger=[csv,tensorboard]"]
    train(tmp_path, *options, *loggers)
    found = [float(row["curvature"]) for row in logged(tmp_path)]
    assert found[0] != found[1] and all(c > 0 for c in found)
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.long
def test_the_average_is_measured_where_the_average_is_evaluated(tmp_path):
    from archzoo.train.data import data_sets

    train(tmp_path, "callbacks=[ema,geometry]", "trainer.evaluate_every=12")
    fold = data_sets.build("digits").validation
    x, _ = fold.__getitems__([(0, i * len(fold) // 64) for i in range(64)])
    best = create_model(f"local-dir:{tmp_path}")  # the only evaluation, so the best one
    (row,) = logged(tmp_path)
    mean, largest = stream_norms(best, x)["trunk"]
    assert float(row["norm_mean"]) == pytest.approx(mean, rel=1e-6)
    assert float(row["norm_max"]) == pytest.approx(largest, rel=1e-6)


def test_what_has_no_stream_is_refused():
    with pytest.raises(ValueError, match=r"samples must be at least 1, got 0"):
        Geometry(samples=0)
    with pytest.raises(ValueError, match="Linear runs no trunk"):
        stream_norms(nn.Linear(2, 2), torch.zeros(1, 2))

    class Bare:
        model = nn.Linear(2, 2)

    with pytest.raises(RunError, match="measures the stream of a trunk, and Linear has none"):
        Geometry().start(Bare())
