"""The laws of timm's own tests of its models, on every image model.

Refused on purpose, here and by the models, each in one line or by torch itself: TorchScript;
`features_only` by extractors that rebuild a model from its parts (`list`, `dict`, `fx`); a pool or
a keyword that a model does not have; `global_pool=""` beside a head; another size of image than a
Vision Transformer was built for; torch.fx where layers ask for sizes (`test_features`).
"""

import itertools
import math

import pytest
import timm
import torch
from archzoo.zoo import create_model, list_models, model_info, register_with_timm
from timm.models import FeatureInfo, group_modules, group_parameters
from timm.models._features import FeatureGetterNet
from timm.optim import param_groups_layer_decay

from ..tiers import tiered
from .small_models import (
    ALL,
    BACKBONES,
    CLASSES,
    HEADED,
    build,
    example,
    fitting,
    loss_of,
    on_meta,
    trained,
)

IMAGES = [name for name in ALL if model_info(name).kind == "image"]
FIRST = [name for name in CLASSES if name in IMAGES]
shapes = pytest.mark.parametrize("name", tiered(IMAGES, FIRST))  # on `meta`
every = pytest.mark.parametrize("name", IMAGES)
numbers = pytest.mark.parametrize("name", FIRST)
STAGED = [name for name in FIRST if hasattr(on_meta(name), "stages")]
EXACT = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(autouse=True, scope="module")
def registered():
    assert register_with_timm() == list_models()


def side_of(name):
    return on_meta(name).default_cfg["input_size"][-1]


# Forward and backward.


@pytest.mark.parametrize("size", [(9, 14), (17, 8), (1, 1)], ids=str)
@pytest.mark.parametrize("name", STAGED)
def test_a_network_of_stages_takes_images_of_any_size(name, size):
    model = trained(build(name)).eval()
    x = torch.randn(1, model.default_cfg["input_size"][0], *size)
    features = model.forward_features(x)
    reduction = model.feature_info[-1]["reduction"]
    assert features.shape[2:] == tuple(math.ceil(side / reduction) for side in size)
    assert model(x).isfinite().all()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), model.forward_head(features), **EXACT)


@shapes
def test_height_and_width_may_differ(name):
    side = side_of(name)
    model = on_meta(name, img_size=(2 * side, side))
    x = example(name, device="meta", img_size=(2 * side, side))
    assert model.default_cfg["input_size"] == x.shape[1:]
    assert model(x).shape == (2, model.num_classes)
    square = on_meta(name, img_size=(side, side))
    assert square.default_cfg == on_meta(name).default_cfg


@numbers
def test_an_image_that_is_not_square_is_read_in_its_own_directions(name):
    side = side_of(name)
    model = trained(build(name, img_size=(2 * side, side))).eval()
    x = example(name, img_size=(2 * side, side))
    _, maps = model.forward_intermediates(x, norm=True)
    assert all(h.shape[2] == 2 * h.shape[3] for h in maps)
    if hasattr(model, "pos_embed"):
        with pytest.raises(AssertionError, match="Input height .* doesn't match"):
            model(x.mT)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "img_size must be at least 1, got 0"),
        ((8, 0), r"img_size must be at least 1, got \(8, 0\)"),
        ((8,), r"img_size must be a side, or height and width, got \(8,\)"),
        ((8, 8, 8), "img_size must be a side, or height and width"),
        ("8", "img_size must be int | tuple"),
    ],
)
@numbers
def test_what_is_no_size_of_an_image_is_refused(name, size, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, img_size=size)


def test_a_patch_must_divide_both_sides():
    with pytest.raises(ValueError, match=r"does not divide img_size=\(8, 6\); .*\[1, 2\]"):
        create_model("vit_nano", img_size=(8, 6), patch_size=4)


@shapes
def test_every_parameter_gets_a_gradient_of_another_number_of_classes(name):
    model = on_meta(name, num_classes=42)
    logits = model(example(name, device="meta"))
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


# Facts, heads and pools.


@shapes
def test_the_default_facts_are_those_of_the_features(name):
    model = on_meta(name)
    cfg, x = model.default_cfg, example(name, device="meta")
    assert timm.models.get_pretrained_cfg_value(name, "input_size") == x.shape[1:]
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size) == (2, model.num_features)
    if cfg["fixed_input_size"]:
        assert features.shape[-1] == model.num_features
        assert model.num_prefix_tokens + model.patch_embed.num_patches == features.shape[1]
    else:
        assert features.shape[1:] == (model.num_features, *cfg["pool_size"])
    for layer in (cfg["classifier"], cfg["first_conv"]):
        assert f"{layer}.weight" in model.state_dict()


@shapes
def test_head_and_pool_can_be_removed_and_brought_back(name):
    features = on_meta(name).forward_features(example(name, device="meta"))
    for model in (on_meta(name), on_meta(name, num_classes=0, global_pool="")):
        model.reset_classifier(0, "")
        assert model.forward_head(features) is features
        with pytest.raises(ValueError, match="global_pool='' hands on features that no head reads"):
            model.reset_classifier(3)
        for pool in model.pools[:-1]:
            model.reset_classifier(3, pool)
            assert model.forward_head(features).shape == (2, 3)
            assert model.recipe.options == {"num_classes": 3, "global_pool": pool}
        model.reset_classifier(0)
        assert model.forward_head(features).shape == (2, model.num_features)


@numbers
def test_a_pool_that_is_not_there_leaves_the_model_as_it_was(name):
    model = build(name)
    pool, head = model.pool_type, model.head
    for change in (
        lambda: model.reset_classifier(2, "max"),
        lambda: model.reset_classifier(2, ""),
        lambda: model.reset_classifier(-1, model.pools[0]),
        lambda: model.set_global_pool("fast"),
        lambda: model.set_global_pool(""),
        lambda: create_model(name, global_pool="max"),
        lambda: create_model(name, global_pool=""),
    ):
        with pytest.raises(ValueError, match="global_pool|num_classes"):
            change()
        assert model.pool_type == pool and model.head is head
    assert model.recipe.options == {}


def test_an_unpooled_model_comes_back(tmp_path):
    from archzoo.zoo import save_model

    model = build("resnet_nano", img_size=(16, 8))
    model.reset_classifier(0, "")
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}")
    assert loaded.default_cfg["pool_size"] == (8, 4)
    x = example("resnet_nano", img_size=(16, 8))
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x), **EXACT)


# Memory formats and dtypes.


@numbers
def test_channels_last_gives_the_same_logits_and_gradients(name):
    model, x = trained(build(name)).double(), example(name, dtype=torch.float64)
    answers = []
    for form in (torch.contiguous_format, torch.channels_last):
        model = model.to(memory_format=form)
        model.zero_grad()
        logits = model(x.contiguous(memory_format=form))
        loss_of(logits).backward()
        answers.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    for plain, last in zip(*answers, strict=True):
        # float64: a convolution sums in another order.
        torch.testing.assert_close(last, plain, rtol=1e-9, atol=1e-9 * float(plain.abs().max()))


@numbers
def test_a_model_of_bfloat16_trains(name):
    model, x = build(name).bfloat16(), example(name, 4, dtype=torch.bfloat16)
    logits = model(x)
    loss_of(logits).backward()
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in model.parameters())
    _, maps = model.eval().forward_intermediates(x)
    assert {h.dtype for h in maps} == {torch.bfloat16}


# Features at every depth.


@pytest.mark.parametrize("extractor", ["getter", "hook"])
@shapes
def test_features_have_the_channels_and_the_reduction_that_are_told(name, extractor):
    with torch.device("meta"):
        net = timm.create_model(name, features_only=True, feature_cls=extractor).eval()
    x = example(name, device="meta")
    found = net(x)
    channels, reductions = net.feature_info.channels(), net.feature_info.reduction()
    assert len(found) == len(channels) == len(reductions) >= 3
    for h, width, reduction in zip(found, channels, reductions, strict=True):
        sides = [math.ceil(side / reduction) for side in x.shape[2:]]
        if net.output_fmt == "NLC":
            prefix = on_meta(name).num_prefix_tokens
            assert h.shape == (2, prefix + math.prod(sides), width)
        else:
            assert h.shape == (2, width, *sides)


@numbers
def test_intermediates_end_in_the_features(name):
    model, x = trained(build(name)).eval(), example(name)
    features = model.forward_features(x)
    assert len(FeatureInfo(model.feature_info, len(model.feature_info)).channels()) >= 3
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, features, **EXACT)
    assert len(maps) == len(model.feature_info)
    (last,) = model.get_intermediate_layers(x, norm=True, reshape=True)
    if features.dim() == 3:
        features = model.as_map(features)
    torch.testing.assert_close(last, features, **EXACT)


@numbers
def test_recomputation_changes_no_intermediate_and_no_gradient(name):
    x, answers = example(name), []
    for enable in (False, True):
        model = trained(build(name))
        model.set_grad_checkpointing(enable)
        final, maps = model.forward_intermediates(x)
        sum(loss_of(h) for h in (final, *maps)).backward()
        grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        answers.append([final, *maps, *grads.values()])
    for plain, again in zip(*answers, strict=True):
        torch.testing.assert_close(again, plain, **EXACT)


@pytest.mark.parametrize(
    ("name", "residual"),
    fitting([name for name in FIRST if name in BACKBONES]),
)
def test_what_a_depth_hands_on_is_what_hooks_see_over_every_residual(name, residual):
    model, x = trained(build(name, residual=residual)).eval(), example(name)
    seen = []
    for one in model.feature_info:
        module = model.get_submodule(one["module"])
        if one.get("hook_type") == "forward_pre":
            module.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
        else:
            module.register_forward_hook(lambda m, given, out: seen.append(out))
    features = model.forward_features(x)
    expected = list(seen)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, features, **EXACT)
    assert len(maps) == len(expected)
    for found, hook in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, model.as_map(hook), **EXACT)


@numbers
def test_indices_choose_depths_as_timm_reads_them(name):
    from timm.models._features import feature_take_indices

    model, x = trained(build(name)).eval(), example(name)
    _, maps = model.forward_intermediates(x)
    for indices in (None, 1, len(maps), [0], [-1, 0], (1, -2)):
        taken, end = feature_take_indices(len(maps), indices)
        found = model.forward_intermediates(x, indices, intermediates_only=True, stop_early=True)
        for depth, h in zip(sorted(set(taken)), found, strict=True):
            torch.testing.assert_close(h, maps[depth], **EXACT)
        found = model.forward_intermediates(x, indices, output_dict=True, stop_early=True)
        assert set(found) == {"image_intermediates", "image_features"}
        (last,) = model.forward_intermediates(x, [end], norm=True, intermediates_only=True)
        torch.testing.assert_close(model.as_map(found["image_features"]), last, **EXACT)
    for indices in (0, len(maps) + 1, [len(maps)], [-len(maps) - 1], []):
        with pytest.raises(ValueError, match=r"n must lie in|there are \d depths"):
            model.forward_intermediates(x, indices)
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW' or 'NLC', got 'NHWC'"):
        model.forward_intermediates(x, output_fmt="NHWC")


@numbers
def test_tokens_and_maps_are_the_same_features(name):
    model, x = trained(build(name)).eval(), example(name)
    maps = model.get_intermediate_layers(x, 3, reshape=True)
    tokens = model.get_intermediate_layers(x, 3)
    for h, t in zip(maps, tokens, strict=True):
        torch.testing.assert_close(h.flatten(2).mT, t, **EXACT)


def test_prefix_tokens_come_beside_the_patches():
    model, x = trained(build("vit_nano", registers=2)).eval(), example("vit_nano")
    ((patches, prefix),) = model.get_intermediate_layers(x, return_prefix_tokens=True, norm=True)
    torch.testing.assert_close(torch.cat([prefix, patches], 1), model.forward_features(x), **EXACT)
    found = model.forward_intermediates(x, 1, True, norm=True, output_dict=True)
    torch.testing.assert_close(found["image_intermediates_prefix"][0], prefix, **EXACT)


def test_nothing_behind_the_last_depth_asked_for_is_run():
    model, calls = build("resnet_nano").eval(), []
    model.stages[1].register_forward_hook(lambda *_: calls.append(1))
    x = example("resnet_nano")
    model.forward_intermediates(x, [0, 1], intermediates_only=True)
    model.forward_intermediates(x, [1], stop_early=True)
    assert calls == []
    model.forward_intermediates(x, [1])
    assert calls == [1]


@numbers
def test_a_pruned_network_gives_the_same_features_and_trains_whole(name):
    model, x = trained(build(name)).eval(), example(name)
    for indices in ([0, 1], (1,), 2):
        expected = model.forward_intermediates(x, indices, intermediates_only=True)
        pruned = trained(build(name)).eval()
        net = FeatureGetterNet(pruned, indices)
        found = net(x)
        assert net.feature_info.channels() == [h.shape[1] for h in expected]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, **EXACT)
        assert pruned.recipe is None and "prune_intermediate_layers" in pruned.lost_recipe
        if name in STAGED:
            sum(h.square().sum() for h in found).backward()
            without = [key for key, p in net.named_parameters() if p.grad is None]
            # A query of the stage's first site, or of a pool's space, is never read.
            assert [key for key in without if "stages" in key or "stem" in key] == []


# Layer-wise learning rates.


@pytest.mark.parametrize("name", HEADED)
def test_every_parameter_has_one_depth_and_the_head_the_last(name):
    model = on_meta(name)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    names = dict(model.named_parameters())
    assert layers.keys() == names.keys()
    order, stages = model.group_matcher(), model.stages_of_blocks()
    held = {
        id(p): (1.0, float(i), float(j))
        for i, stage in enumerate(stages)
        for j, block in enumerate(stage)
        for module in block
        for p in module.parameters()
    }
    last = (1.0, len(stages) - 1.0, len(stages[-1]) - 1.0)
    head = {id(p) for p in model.head.parameters()}
    for key, parameter in names.items():
        if id(parameter) in head:
            assert order(key) == (2.0,)
        elif id(parameter) in held:
            assert order(key) == held[id(parameter)], key
        else:
            assert order(key) in ((0.0,), last), key
    assert sorted(set(layers.values())) == list(range(max(layers.values()) + 1))
    coarse = model.group_matcher(coarse=True)
    assert all(coarse(key) == order(key)[:2] for key in names)
    group_modules(model, model.group_matcher(), reverse=True)
    with pytest.raises(ValueError, match="has no parameter or module 'backbone.weight'"):
        model.group_matcher()("backbone.weight")


@every
def test_learning_rates_grow_with_depth_and_forget_no_parameter(name):
    model = on_meta(name)
    marks = model.no_weight_decay()
    groups = param_groups_layer_decay(model, 0.05, marks, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    names = dict(model.named_parameters())
    assert len(scale) == sum(len(group["params"]) for group in groups) == len(names)
    stages = model.stages_of_blocks()
    rates = [
        {scale[id(p)] for module in block for p in module.parameters()}
        for block in itertools.chain(*stages)
    ]
    assert all(len(block) <= 1 for block in rates)  # some blocks have no parameter
    blocks = [rate for block in rates for rate in block]
    assert blocks == sorted(blocks) and len(set(blocks)) == len(blocks)
    assert {scale[id(p)] for p in model.head.parameters()} == {1.0}
    first = {
        scale[id(p)] for key, p in names.items() if key.startswith(model.default_cfg["first_conv"])
    }
    assert max(first) < blocks[0]
    final = {scale[id(p)] for p in model.norm.parameters()}
    assert final <= {blocks[-1]}


def test_a_parameter_of_several_depths_stands_with_the_last_of_them():
    model = on_meta("vit_nano_block_attnres")
    order, last = model.group_matcher(), (1.0, 0.0, 3.0)
    assert order("trunk.residual.query") == order("norm.weight") == last
    assert order("pos_embed") == order("prefix") == order("patch_embed.proj.weight") == (0.0,)
    tied = on_meta("gpt_nano")
    assert tied.group_matcher()("embedding.weight") == (2.0,)
    learned = on_meta("euclidean_resnet20_poincare_head")
    (curvature,) = [key for key, _ in learned.named_parameters() if "curvature" in key]
    assert learned.group_matcher()(curvature) == (2.0,)
    ball = on_meta("poincare_resnet_nano", learned_curvature=True, num_classes=0)
    (curvature,) = [key for key, _ in ball.named_parameters() if "curvature" in key]
    assert ball.group_matcher()(curvature) >= (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("name", "residual"), fitting(["vit_nano", "resnet_nano"]))
def test_the_parameters_of_every_residual_are_of_its_last_block(name, residual):
    model = on_meta(name, residual=residual)
    order = model.group_matcher()
    ends = [(1.0, float(i), len(stage) - 1.0) for i, stage in enumerate(model.stages_of_blocks())]
    found = {order(key) for key, _ in model.named_parameters() if ".residual." in key}
    assert found <= set(ends)
    assert all(order(key) != (0.0,) for key, _ in model.named_parameters() if "norms" in key)


def test_factored_weights_keep_the_depth_of_their_matrix():
    plain, factored = on_meta("vit_nano"), build("vit_nano", lowrank="low_rank")
    order, other = plain.group_matcher(), factored.group_matcher()
    for key, _ in factored.named_parameters():
        owner = key.split(".")[:3]
        if owner[0] == "trunk":
            assert other(key) == order(".".join(owner)), key
