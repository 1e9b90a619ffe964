"""What a geometry changes in a model and what not, and what is refused where it has no meaning."""

import math

import pytest
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    LorentzConv2d,
    LorentzLinear,
    LorentzMLR,
    space_points,
)
from archzoo.zoo import certify, create_model
from archzoo.zoo.axes.geometry import GeometryName
from archzoo.zoo.backbones.self_attention import KeyValueCache
from torch import nn

from ..small_models import TINY, build, example, loss_of, trained

GEOMETRIES = GeometryName.__args__
CURVED = [name for name in GEOMETRIES if name != "euclidean"]

backbones = pytest.mark.parametrize("name", ["mlp_nano", "vit_nano", "gpt_nano", "resnet_nano"])
curved = pytest.mark.parametrize("geometry", CURVED)


def small(name, **options):
    return build(name, **TINY[name], **options)


def inputs(name, **options):
    return example(name, 3, **TINY[name], **options)


# Flat space is a limit: the same weights give the same function.


def twin(name, geometry, curvature, dtype, **options):
    """A flat model with weights that are no fresh zeros, and a curved one that holds them."""
    flat = trained(small(name, head="linear", **options)).to(dtype)
    model = small(name, geometry=geometry, curvature=curvature, head="linear", **options)
    missing, unknown = model.to(dtype).load_state_dict(flat.state_dict(), strict=False)
    assert not unknown
    new = ("time_weight", "log_gain", "curvature._extra_state")
    assert all(key.endswith(new) for key in missing)
    return flat, model


def test_a_flat_model_starts_as_the_same_function_on_the_hyperboloid_but_for_attention():
    flat, model = twin("mlp_nano", "lorentz", 1.0, torch.float64)
    x = inputs("mlp_nano", dtype=torch.float64)
    torch.testing.assert_close(model.eval()(x), flat.eval()(x), rtol=0, atol=1e-12)


def test_names_of_flat_parameters_are_names_of_curved_ones():
    flat = small("vit_nano", qk_norm=True).state_dict().keys()
    found = small("vit_nano", geometry="lorentz", head="linear").state_dict().keys()
    assert flat < found


# Decoding.


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 1, 5]], ids=str)
@curved
@torch.no_grad()
def test_cached_decoding_is_the_full_forward(geometry, pieces):
    model = trained(small("gpt_nano", geometry=geometry, curvature=0.3)).double().eval()
    tokens = inputs("gpt_nano")
    cache, logits = KeyValueCache(12), []
    for piece in tokens.split(pieces, dim=1):
        logits.append(model.forward_head(model.forward_features(piece, cache)))
    torch.testing.assert_close(torch.cat(logits, 1), model(tokens), rtol=1e-11, atol=1e-11)


@curved
@torch.no_grad()
def test_a_decoder_in_half_precision_moves_points_around_the_centre_of_its_prompt(geometry):
    model = trained(small("gpt_nano", geometry=geometry, curvature=0.3)).eval()
    tokens, cache = inputs("gpt_nano"), KeyValueCache(12)
    logits = []
    with torch.autocast("cpu", torch.bfloat16):
        for piece in tokens.split([5, 1, 6], dim=1):
            logits.append(model.forward_head(model.forward_features(piece, cache)))
    exact = model(tokens)
    # Eight bits of mantissa, through two blocks.
    assert (torch.cat(logits, 1).float() - exact).norm() < 0.1 * exact.norm()


# One space.


@backbones
@curved
def test_all_layers_lie_in_one_space_and_its_curvature_learns(name, geometry):
    model = small(name, geometry=geometry, learned_curvature=True, residual="mobius")
    balls = {id(m) for m in model.modules() if isinstance(m, BallCurvature)}
    assert len(balls) == 1
    loss_of(model(inputs(name))).backward()
    (ball,) = {m for m in model.modules() if isinstance(m, BallCurvature)}
    assert ball.log_ratio.grad.isfinite() and ball.log_ratio.grad != 0


@backbones
@pytest.mark.parametrize("head", ["linear", "mlr", "distance"])
@curved
def test_every_curved_space_has_every_head(name, geometry, head):
    model = small(name, geometry=geometry, head=head, num_classes=5)
    assert model.head.out_features == 5 and model(inputs(name)).isfinite().all()
    model.reset_classifier(3)
    assert model(inputs(name)).shape[-1] == 3


def test_a_decoder_reads_distances_to_its_own_table():
    for geometry in CURVED:
        model = small("gpt_nano", geometry=geometry)
        assert model.head.weight is model.embedding.weight


# What is refused.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp_nano", {"curvature": 0.5}, "geometry='euclidean' has no curvature, got curvature=0"),
        ("vit_nano", {"learned_curvature": True}, "learned_curvature=True; leave them out"),
        ("vit_nano", {"head": "distance"}, "head must be 'linear' or 'mlr' with geometry='eucl"),
        ("gpt_nano", {"head": "mlr"}, "give num_classes for one of its own"),
        ("gpt_nano", {"geometry": "lorentz", "head": "mlr"}, "give num_classes for one of its own"),
        ("vit_nano", {"geometry": "lorentz", "curvature": -1.0}, "curvature must be a positive"),
        ("vit_nano", {"geometry": "spherical"}, "geometry must be .*'spherical'"),
        ("vit_nano", {"geometry": "lorentz", "head": "softmax"}, "head must be .*'softmax'"),
        (
            "vit_nano",
            {"geometry": "lorentz", "attn_drop_rate": 0.1},
            "attn_drop_rate=0.1 needs geometry='euclidean': .* use drop_rate or drop_path_rate",
        ),
        (
            "poincare_vit_nano",
            {"attn_drop_rate": 0.5},
            "attn_drop_rate=0.5 needs geometry='euclidean'",
        ),
        (
            "vit_nano",
            {"geometry": "lorentz", "residual": {"name": "mobius", "coordinates": "tangent"}},
            "residual='mobius' has coordinates='tangent', and the features of this geometry are",
        ),
        (
            "mlp_nano",
            {"geometry": "poincare", "residual": {"name": "mobius", "curvature": 2.0}},
            "mixes balls",
        ),
        (
            "mlp_nano",
            {"geometry": "lorentz", "classifier": "hyperbolic"},
            "choose its own head='mlr' instead",
        ),
        (
            "poincare_resnet_nano",
            {"geometry": "lorentz", "init": "dirac"},
            "are choices of geometry='poincare'",
        ),
    ],
)
def test_a_contradiction_is_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


def test_flat_layers_may_have_a_head_or_a_residual_of_points():
    head = small("mlp_nano", head="mlr", curvature=0.5)
    assert head.head.curvature.initial == 0.5
    residual = small("mlp_nano", residual="mobius", curvature=0.5)
    assert residual.trunk.residual.curvature.initial == 0.5
    assert small("mlp_nano", residual="mobius").trunk.residual.curvature.initial == 1.0


# Certificates.


@pytest.mark.parametrize(
    "layer",
    [
        LorentzLinear(5, 4, curvature=0.7),
        nn.Sequential(LorentzConv2d(2, 3, 3, padding=1, curvature=0.7), nn.Flatten()),
        nn.Sequential(LorentzConv2d(2, 4, 3, stride=2, groups=2, curvature=4.0), nn.Flatten()),
        LorentzMLR(5, 3, curvature=2.0),
    ],
    ids=["linear", "conv", "conv, strided", "mlr"],
)
def test_no_quotient_exceeds_the_bound_of_a_layer(layer):
    layer = trained(layer)
    flat = not isinstance(layer, nn.Sequential)
    g = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4, *((5,) if flat else (2, 6, 6)), generator=g)
    certificate = certify(nn.Sequential(layer), x, attack=False)
    assert 0 < certificate.lipschitz < math.inf
    wide = layer.double()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: wide(one[None])[0]))(x.double())
    assert torch.linalg.matrix_norm(jacobian.flatten(2), 2).max() <= certificate.lipschitz


def test_a_centre_of_mass_has_no_constant():
    def pair(angle, size):
        s = torch.tensor([[math.cos(angle), math.sin(angle)], [math.cos(angle), -math.sin(angle)]])
        return size * s.double()

    for size in (10.0, 100.0, 1000.0, 10000.0):
        one, other = (pair(apart / size, size) for apart in (0.70, 0.71))
        moved = space_points.centroid(one, 1.0) - space_points.centroid(other, 1.0)
        assert moved.norm() > 0.25 * size * (one - other).norm()
    model = small("resnet_nano", geometry="lorentz")
    certificate = certify(model, inputs("resnet_nano"), attack=False, estimate=False)
    assert certificate.lipschitz == math.inf and certificate.reasons


def test_a_table_network_on_the_hyperboloid_has_a_bound():
    model = small("mlp_nano", geometry="lorentz")
    certificate = certify(model, inputs("mlp_nano"), attack=False)
    assert 0 < certificate.lower_bound <= certificate.lipschitz < math.inf


@pytest.mark.parametrize(
    ("name", "geometry"), [("mlp_nano", "poincare"), ("vit_nano", "lorentz")], ids=str
)
def test_a_network_without_a_bound_says_why(name, geometry):
    certificate = certify(small(name, geometry=geometry), inputs(name), attack=False)
    assert certificate.lipschitz == math.inf and certificate.reasons
