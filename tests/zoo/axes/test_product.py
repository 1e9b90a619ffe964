"""Every backbone lies in every geometry, over every residual; its weights have any structure."""

import itertools
import math

import pytest
import torch
from archzoo.layers.lowrank import WeightStructure
from archzoo.zoo import certify, create_model, model_info, save_model
from archzoo.zoo.axes.geometry import GeometryName
from archzoo.zoo.axes.lowrank import make_method, methods

from ...tiers import tiered
from ..small_models import EVERYWHERE, NANO, TINY, build, example, fitting, loss_of, size_and_class

GEOMETRIES = GeometryName.__args__


def backbones():
    """The smallest model of every class with both axes, by its shortest name."""
    found = [n for n in NANO if {"residual", "geometry"} <= model_info(n).options.keys()]
    found.sort(key=len, reverse=True)
    return sorted({size_and_class(name)[1]: name for name in found}.values())


def usual(name, geometry, residual):
    """Every residual on the hyperboloid once, and the residual of each model in both spaces."""
    own = model_info(name).options["residual"].default
    where = "mlp_nano" if residual in EVERYWHERE else "gpt_nano"
    return (name, geometry) == (where, "lorentz") or (geometry != "euclidean" and residual == own)


CASES = [(n, space, r) for n, r in fitting(backbones()) for space in GEOMETRIES]


@pytest.mark.parametrize(("name", "geometry", "residual"), tiered(CASES, usual))
def test_a_point_of_the_product_trains_a_step_comes_back_from_a_folder_and_is_certified(
    name, geometry, residual, tmp_path
):
    sizes = TINY.get(name, {})
    model = build(name, geometry=geometry, residual=residual, **sizes)
    x = example(name, 3, **sizes)
    before = model(x)
    loss_of(before).backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.eval()
    after = model(x)
    assert after.isfinite().all() and not torch.equal(after, before)
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    torch.testing.assert_close(loaded(x), after, rtol=0.0, atol=0.0)
    if x.dim() > 1:  # the number of a node is no sample (N, …)
        certificate = certify(loaded, x, method="product", attack=False, estimate=False)
        assert certificate.lipschitz > 0
        assert math.isfinite(certificate.lipschitz) or certificate.reasons


def spec_of(method):
    """A method that has something to do in every network."""
    return {"name": method} | {"trp": {"min_kernel": 1}, "lost": {"activation": None}}.get(
        method, {}
    )


STRUCTURES = [name for name in methods.names() if make_method(spec_of(name)).is_matrix]
NETWORKS = ["mlp_nano", "vit_nano", "gpt_nano", "resnet_nano"]


def usual_structure(name, geometry, method):
    """Every method on the hyperboloid, and two that have parts of their own in the ball."""
    return name == "mlp_nano" and (geometry == "lorentz" or method in ("maestro", "sst"))


@pytest.mark.parametrize(
    ("name", "geometry", "method"),
    tiered(itertools.product(NETWORKS, GEOMETRIES[1:], STRUCTURES), usual_structure),
)
def test_a_weight_structure_trains_a_step_in_a_curved_space(name, geometry, method):
    model = build(name, geometry=geometry, lowrank=spec_of(method))
    changed = [m for m in model.modules() if isinstance(m, WeightStructure)]
    assert changed or method in ("full", "trp")  # which train the dense weights
    x = example(name)
    before = model(x)
    loss_of(before).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)
    torch.optim.SGD(trained, lr=1e-3).step()
    after = model(x)
    assert after.isfinite().all() and not torch.equal(after, before)


@pytest.mark.parametrize("geometry", GEOMETRIES[1:])
@pytest.mark.parametrize("method", ["cola", "lost"])
def test_an_activation_between_the_factors_of_a_points_layer_is_refused(method, geometry):
    with pytest.raises(ValueError, match="the layer needs a matrix, and this method has an activ"):
        create_model("mlp_nano", geometry=geometry, lowrank=method)
