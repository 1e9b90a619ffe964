"""Hooks and torch.fx's feature extractors see the inside of a model."""

import pytest
import timm
import torch
from archzoo.layers.residual import Site
from archzoo.zoo import with_residual
from archzoo.zoo.axes.residuals import make_residual
from archzoo.zoo.trunk import Trunk

from .small_models import ALL, BACKBONES, EVERYWHERE, SMALL, build, example, on_meta, trained

PLAIN = {"rtol": 0.0, "atol": 0.0}
SITES = [Site("mlp", 0), Site("mlp", 1)]
FOLLOWED = [name for name in EVERYWHERE if make_residual(name, 8, SITES).traces_in_fx]
REFUSED = [name for name in EVERYWHERE if name not in FOLLOWED]
# What torch.fx can follow; the other backbones ask for the shape of what they read.
FAMILIES = ("resnet", "vit", "euclidean_resnet", "sll_resnet")
TRACED = [name for name in ALL if name.startswith(FAMILIES) and "attnres" not in name]
TRACED = [name for name in TRACED if "poincare_head" not in name]
STAGED = [name for name in SMALL if name in BACKBONES and hasattr(on_meta(name), "stages")]
NANO = ["resnet_nano", "vit_nano"]


def make(name, residual):
    """Build, or skip what a backbone's branches cannot take."""
    try:
        return trained(build(name, residual=residual, drop_path_rate=0.2)).eval()
    except ValueError as error:
        if "takes one tensor" in str(error):
            pytest.skip(str(error))
        raise


# torch.fx.


@pytest.mark.parametrize("name", TRACED)
def test_fx_follows_plain_networks(name):
    model = build(name).eval() if name in SMALL else on_meta(name).eval()
    traced = torch.fx.symbolic_trace(model)
    if name in SMALL:
        x = example(name)
        torch.testing.assert_close(traced(x), model(x), **PLAIN)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("residual", FOLLOWED)
@pytest.mark.parametrize("name", NANO)
def test_fx_follows_every_residual_that_says_so(name, residual, training):
    model = make(name, residual).train(training)
    traced, x = torch.fx.symbolic_trace(model), example(name, batch=3)
    answers = []
    for one in (model, traced):
        torch.manual_seed(0)
        answers.append(one(x))
    torch.testing.assert_close(*answers, **PLAIN)


@pytest.mark.parametrize("residual", REFUSED)
@pytest.mark.parametrize("name", NANO)
def test_fx_refuses_every_other_residual_in_one_line(name, residual):
    model = make(name, residual)
    with pytest.raises(ValueError, match=r"^torch\.fx cannot trace \w+; take features by forward"):
        torch.fx.symbolic_trace(model)


@pytest.mark.parametrize("residual", ["block_attnres", "delta", "mhc"])
def test_fx_takes_a_trunk_of_any_residual_as_a_leaf(residual):
    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, m, qualified_name):
            return isinstance(m, Trunk) or super().is_leaf_module(m, qualified_name)

    model, x = make("vit_nano", residual), example("vit_nano")
    traced = torch.fx.GraphModule(model, Leaves().trace(model))
    torch.testing.assert_close(traced(x), model(x), **PLAIN)


@pytest.mark.parametrize(
    ("name", "nodes", "shape"),
    [
        ("resnet_nano", ["stages.0", "norm"], (2, 8, 32, 32)),
        ("vit_nano", ["trunk.branches.1.fc2", "norm"], (2, 17, 64)),
    ],
)
def test_torchvision_extracts_features(name, nodes, shape):
    from torchvision.models.feature_extraction import create_feature_extractor

    model, x = trained(build(name)).eval(), example(name)
    extractor = create_feature_extractor(model, return_nodes=nodes)
    found = extractor(x)
    assert list(found) == nodes
    assert found[nodes[0]].shape == shape
    torch.testing.assert_close(found[nodes[-1]], model.forward_features(x), **PLAIN)


def test_timms_fx_extractor_takes_a_network():
    from timm.models._features_fx import create_feature_extractor

    model, x = trained(build("vit_nano")).eval(), example("vit_nano")
    (found,) = create_feature_extractor(model, ["norm"])(x).values()
    torch.testing.assert_close(found, model.forward_features(x), **PLAIN)


# Hooks.


@pytest.mark.parametrize("residual", EVERYWHERE)
def test_hooks_on_stages_see_what_goes_in_and_comes_out(residual):
    model, seen = make("resnet_nano", residual), []
    for stage in model.stages:
        stage.register_forward_hook(lambda m, given, out: seen.append((given, out)))
    x = example("resnet_nano")
    features = model.forward_features(x)
    assert [out.shape for _, out in seen] == [(2, 8, 32, 32), (2, 16, 16, 16)]
    (stem,), first = seen[0]
    torch.testing.assert_close(stem, model.stem(x), **PLAIN)
    (between,), last = seen[1]
    assert between is first
    torch.testing.assert_close(model.norm(last), features, **PLAIN)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", STAGED)
def test_every_network_of_stages_calls_them(name, training):
    model, seen = build(name).train(training), []
    for part in (*model.stages, *(b for stage in model.stages for b in stage.branches)):
        part.register_forward_hook(lambda m, given, out: seen.append(m))
        part.register_full_backward_hook(lambda m, given, out: seen.append(m))
    model(example(name)).sum().backward()
    parts = [*model.stages, *(b for stage in model.stages for b in stage.branches)]
    assert all(seen.count(part) == 2 for part in parts)


@pytest.mark.parametrize("residual", EVERYWHERE)
def test_a_hook_that_replaces_a_stages_output_is_heeded(residual):
    model, x = make("resnet_nano", residual), example("resnet_nano")
    model.stages[0].register_forward_hook(lambda m, given, out: torch.zeros_like(out))
    found = []
    model.stages[1].register_forward_pre_hook(lambda m, given: found.append(given[0]))
    torch.testing.assert_close(model(x), model(x + 1.0), **PLAIN)
    assert not found[0].any()


@pytest.mark.parametrize("name", ["vit_nano", "mlp_nano", "gpt_nano", "resnet_nano"])
def test_hooks_on_branches_see_what_is_written(name):
    model, seen = make(name, "add") if name != "gpt_nano" else build(name).eval(), []
    (trunk, *_) = [module for module in model.modules() if isinstance(module, Trunk)]
    for branch in trunk.branches:
        branch.register_forward_hook(lambda m, given, out: seen.append(out))
    model(example(name))
    assert len(seen) == len(trunk.branches)


# A converted timm model.


def vit(**options):
    torch.manual_seed(0)
    options = {"img_size": 32, "depth": 3, "num_classes": 7, "embed_dim": 48, **options}
    return trained(timm.create_model("vit_tiny_patch16_224", num_heads=2, **options)).eval()


def same(one, two):
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"indices": 2},
        {"indices": [0, 2], "norm": True, "output_fmt": "NLC"},
        {"indices": [1], "stop_early": True, "intermediates_only": True},
        {"output_dict": True, "return_prefix_tokens": True},
    ],
    ids=str,
)
def test_the_intermediates_of_a_converted_model_are_those_of_timm(options):
    model, x = vit(), example("vit_nano", in_chans=3, img_size=32)
    converted = with_residual(model, "add")
    same(converted.forward_intermediates(x, **options), model.forward_intermediates(x, **options))
    same(converted(x), model(x))
    assert len(converted.feature_info) == 3


@pytest.mark.parametrize(
    "residual", ["attnres", "block_attnres", "delta", "mhc", "hyper_connections"]
)
def test_every_block_of_another_residual_has_intermediates(residual):
    x = example("vit_nano", in_chans=3, img_size=32)
    model = trained(with_residual(vit(), residual, allow_change=True)).eval()
    reads, last = [], []
    for norm in (model.blocks[0].norms[2], model.blocks[0].norms[4]):
        norm.register_forward_pre_hook(lambda m, given: reads.append(given[0]))
    model.blocks.register_forward_hook(lambda m, given, out: last.append(out))
    model.forward_features(x)
    seen = [*reads, *last]
    final, found = model.forward_intermediates(x, output_fmt="NLC", return_prefix_tokens=True)
    for (patches, prefix), expected in zip(found, seen, strict=True):
        same(torch.cat([prefix, patches], 1), expected)
    same(final, model.forward_features(x))


def test_timms_feature_wrappers_take_a_converted_model():
    from timm.models._features import FeatureGetterNet, FeatureHookNet, FeatureInfo

    model, x = with_residual(vit(), "attnres"), example("vit_nano", in_chans=3, img_size=32)
    expected = model.forward_intermediates(x, [0, 2], intermediates_only=True)
    same(FeatureGetterNet(model, out_indices=[0, 2], output_fmt="NCHW", norm=False)(x), expected)
    tokens = FeatureHookNet(with_residual(vit(), "attnres"), out_indices=[0, 2], no_rewrite=True)(x)
    assert [one.shape for one in tokens] == [(2, 5, 48)] * 2
    assert isinstance(FeatureInfo(model.feature_info, (0, 2)).channels(), list)


def test_pruning_to_an_early_block_keeps_what_it_gives():
    model, x = with_residual(vit(), "block_attnres"), example("vit_nano", in_chans=3, img_size=32)
    expected = model.forward_intermediates(x, [1], intermediates_only=True)
    assert model.prune_intermediate_layers([1], prune_norm=True) == [1]
    same(model.forward_intermediates(x, [1], intermediates_only=True), expected)
