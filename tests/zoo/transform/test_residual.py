"""A converted model keeps its weights, its outputs and its handles."""

import copy
import functools
import pickle

import pytest
import timm
import timm.optim
import torch
from archzoo.layers.residual import AttnRes, BlockAttnRes, Site
from archzoo.zoo import create_model, save_model, with_residual
from archzoo.zoo.axes.residuals import make_residual, residuals
from archzoo.zoo.trunk import Trunk
from torch import nn

from ..small_models import ADDITIVE, EVERYWHERE, build, example, fits, loss_of, trained

SITES = [Site(kind, block) for block in range(2) for kind in ("attention", "mlp")]


def _takes_views(name):
    return any(make_residual(name, 8, SITES).views(site) for site in range(len(SITES)))


def _equals(name):
    return make_residual(name, 8, SITES).equals_prenorm_at_init


EQUAL = [name for name in residuals.names() if _equals(name)]
DIFFERENT = [name for name in residuals.names() if not _equals(name)]
EQUAL_FOR_TIMM = [n for n in EQUAL if n in EVERYWHERE and not _takes_views(n)]

# Some thousand roundings of float64, through four to eight blocks.
EXACT = {"rtol": 1e-9, "atol": 1e-9}
TINY = 1e-30  # an epsilon that no rounding of float64 notices
TIMM = {"img_size": 32, "depth": 3, "pretrained": False, "num_classes": 7}


def timm_model(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    # Trained by name only: with timm's fresh class token of size 1e-6, no epsilon is small.
    return trained(timm.create_model(name, **{**TIMM, **options})).double().eval()


def images(size=32, channels=3):
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, size, size, generator=g, dtype=torch.float64)


def without_eps(model):
    for module in model.modules():
        if isinstance(getattr(module, "eps", None), float):
            module.eps = TINY
    return model


def ours(name, **options):
    return trained(build(name, **options)).double().eval()


def inputs(name):
    return example(name, dtype=torch.float64)


def convert(name, model, **options):
    """Convert, or skip what a backbone's branches cannot take."""
    try:
        return with_residual(model, name, **options)
    except ValueError as error:
        if "takes one tensor" in str(error):
            pytest.skip(str(error))
        raise


# Outputs.


@pytest.mark.parametrize("residual", EQUAL_FOR_TIMM)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"init_values": 0.3, "qk_norm": True, "reg_tokens": 2}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
        ("vit_base_patch16_clip_224", {"embed_dim": 96, "num_heads": 3}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
    ids=str,
)
def test_a_timm_model_keeps_its_logits(name, options, residual):
    model = without_eps(timm_model(name, **options))
    torch.testing.assert_close(
        without_eps(with_residual(model, residual))(images()), model(images()), **EXACT
    )


@pytest.mark.parametrize(
    ("name", "residual"), [(n, r) for n in ADDITIVE for r in EQUAL if fits(n, r)]
)
def test_a_model_of_the_zoo_keeps_its_logits(name, residual):
    model = without_eps(ours(name))
    after = without_eps(convert(residual, model))
    torch.testing.assert_close(after(inputs(name)), model(inputs(name)), **EXACT)


@pytest.mark.parametrize(
    "options", [{"additive": True}, {"competition": "sigmoid"}, {"heads": 2, "window": 99}], ids=str
)
@pytest.mark.parametrize("name", ADDITIVE)
def test_a_variant_that_reads_another_multiple_keeps_the_logits_too(name, options):
    model = without_eps(ours(name))
    after = without_eps(with_residual(model, "attnres", **options))
    torch.testing.assert_close(after(inputs(name)), model(inputs(name)), **EXACT)


def test_a_variant_that_leaves_sources_out_is_refused():
    with pytest.raises(ValueError, match="residual='attnres' does not start equal to 'add'"):
        with_residual(ours("mlp_nano"), "attnres", window=1)


@pytest.mark.parametrize(
    ("name", "residual"), [(n, r) for n in ADDITIVE for r in EQUAL if fits(n, r)]
)
def test_shared_weights_keep_their_gradients(name, residual):
    model = without_eps(ours(name))
    after = without_eps(convert(residual, model)).eval()
    loss_of(model(inputs(name))).backward()
    loss_of(after(inputs(name))).backward()
    theirs = dict(after.named_parameters())
    for key, parameter in model.named_parameters():
        if key in theirs:  # a norm that became one for each view shares its gradient among them
            torch.testing.assert_close(theirs[key].grad, parameter.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("residual", ["attnres", "block_attnres"])
def test_a_norm_s_epsilon_counts_n_squared_times(residual):
    model, x = timm_model(), images()
    plain, after = model(x), with_residual(model, residual)
    # Epsilon 1e-6 over a variance above 0.01, times 7² sources: below half a percent.
    torch.testing.assert_close(after(x), plain, rtol=5e-3, atol=5e-3)
    # It is that epsilon and nothing else: divided by n², the logits are exact.
    trunk = after.blocks[0]
    for site, norm in enumerate(trunk.norms):
        size = trunk.residual.block_size
        norm.eps /= (1 + -(-site // size)) ** 2
    after.norm.eps /= (1 + -(-len(trunk.norms) // trunk.residual.block_size)) ** 2
    torch.testing.assert_close(after(x), plain, **EXACT)


@pytest.mark.parametrize("name", ADDITIVE)
def test_add_to_add_is_bitwise(name):
    model = ours(name)
    assert torch.equal(with_residual(model, "add")(inputs(name)), model(inputs(name)))


def test_a_timm_model_over_add_is_the_same_bitwise():
    model = timm_model(init_values=0.1)
    assert torch.equal(with_residual(model, "add")(images()), model(images()))


def test_a_resnet_of_three_stages_keeps_its_running_statistics_meaning():
    model = without_eps(ours("resnet_nano", widths=(8, 12, 16), depths=(3, 2, 2)))
    x = inputs("resnet_nano")
    after = without_eps(with_residual(model, "attnres"))
    torch.testing.assert_close(after(x), model(x), **EXACT)
    after.train()
    model.train()
    torch.testing.assert_close(after(x), model(x), **EXACT)


def test_a_mask_reaches_timm_s_attentions():
    model = without_eps(timm_model())
    after = without_eps(with_residual(model, "attnres"))
    plain = model.forward_features(images(), is_causal=True)
    assert (plain - model.forward_features(images())).abs().max() > 1e-3
    torch.testing.assert_close(after.forward_features(images(), is_causal=True), plain, **EXACT)


# What is kept beside the outputs.


def test_the_given_model_is_left_as_it_was():
    model = timm_model()
    before = copy.deepcopy(model.state_dict())
    after = with_residual(model, "attnres")
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(1.0)
    assert type(model.blocks[0]).__name__ == "Block"
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)


def test_drop_path_is_carried_over():
    model = timm_model(drop_path_rate=0.3)
    rates = with_residual(model, "attnres").blocks[0].drop_path
    assert rates == pytest.approx((0.0, 0.0, 0.15, 0.15, 0.3, 0.3))
    own = build("mlp_nano", depth=3, drop_path_rate=0.2)
    assert with_residual(own, "attnres").trunk.drop_path == own.trunk.drop_path


def test_dtype_mode_and_frozen_weights_are_kept():
    model = timm_model().train()
    model.patch_embed.requires_grad_(False)
    after = with_residual(model, "attnres")
    assert all(module.training for module in after.modules())
    assert all(p.dtype == torch.float64 for p in after.parameters())
    assert not any(p.requires_grad for p in after.patch_embed.parameters())
    assert not with_residual(model.eval(), "attnres").blocks[0].residual.training


@pytest.mark.parametrize(
    "residual", [*residuals.names(), {"name": "block_attnres", "block_size": 3}], ids=str
)
def test_a_converted_model_is_saved_and_rebuilt(residual, tmp_path):
    model = trained(with_residual(build("vit_nano", depth=2), residual, allow_change=True)).eval()
    loaded = create_model(f"local-dir:{save_model(model, tmp_path / 'saved')}").eval()
    x = example("vit_nano")
    assert torch.equal(loaded(x), model(x))
    assert type(loaded.trunk.residual) is type(model.trunk.residual)


@pytest.mark.parametrize(
    ("residual", "options"),
    [
        ("block_attnres", {"block_size": 3}),
        ({"name": "block_attnres"}, {"block_size": 3}),
        (BlockAttnRes, {"block_size": 3}),
        (functools.partial(BlockAttnRes, block_size=3), {}),
    ],
    ids=str,
)
def test_options_are_given_in_any_way_of_naming_a_residual(residual, options, tmp_path):
    model = with_residual(build("mlp_nano", depth=4), residual, **options)
    assert model.trunk.residual.block_size == 3
    loaded = create_model(f"local-dir:{save_model(model, tmp_path / 'saved')}")
    assert loaded.trunk.residual.block_size == 3


def test_timm_s_handles_go_on_working():
    model = with_residual(timm_model(), "attnres")
    x = images()
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), model(x))
    final, (last,) = model.forward_intermediates(x, indices=1, output_fmt="NLC")
    assert torch.equal(final, features)
    assert last.shape == (2, 4, 192)
    model.reset_classifier(3, "avg")
    assert model.double()(x).shape == (2, 3)
    other = with_residual(timm_model(num_classes=3), "attnres")
    other.reset_classifier(3, "avg")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.double()(x), model(x))
    assert isinstance(model, timm.models.VisionTransformer)


def test_timm_s_optimisers_leave_queries_alone_and_order_layers_by_block():
    plain, model = timm_model(), with_residual(timm_model(), "attnres")
    assert {"cls_token", "pos_embed", "blocks.0.residual.query"} <= set(model.no_weight_decay())
    ours = timm.optim.param_groups_layer_decay(model, layer_decay=0.5)
    theirs = timm.optim.param_groups_layer_decay(plain, layer_decay=0.5)

    def scales(groups, module):
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        return [scale[id(p)] for p in module.parameters()]

    branches = model.blocks[0].branches
    for i, block in enumerate(plain.blocks):
        assert scales(ours, branches[2 * i]) == scales(theirs, block.attn)
        assert scales(ours, branches[2 * i + 1]) == scales(theirs, block.mlp)
    assert scales(ours, model.patch_embed) == scales(theirs, plain.patch_embed)
    assert scales(ours, model.norm) == scales(theirs, plain.norm)
    assert scales(ours, model.head) == scales(theirs, plain.head)
    assert scales(ours, model.blocks[0].residual) == 2 * [max(scales(ours, branches[-1]))]


def test_recomputation_is_per_branch_and_keeps_gradients():
    model = with_residual(timm_model(), "attnres").train()
    model(images()).sum().backward()
    plain = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    assert model.blocks[0].grad_checkpointing
    model(images()).sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[key], rtol=0.0, atol=0.0)


def test_a_converted_timm_model_is_copied_and_pickled():
    model = with_residual(timm_model(), "attnres")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images()), model(images()))
        assert type(twin) is type(model)


def test_a_timm_model_over_add_is_converted_again():
    once = with_residual(timm_model(), "add")
    twice = without_eps(with_residual(once, "attnres"))
    assert isinstance(twice.blocks[0].residual, AttnRes)
    torch.testing.assert_close(twice(images()), without_eps(once)(images()), **EXACT)
    with pytest.raises(ValueError, match="VisionTransformer already has the residual AttnRes"):
        with_residual(twice, "add")


# Refusals.


@pytest.mark.parametrize("residual", [name for name in DIFFERENT if name in EVERYWHERE])
def test_a_change_of_outputs_needs_to_be_allowed(residual):
    model = ours("mlp_nano")
    with pytest.raises(ValueError, match=rf"residual='{residual}' does not start equal to 'add'"):
        with_residual(model, residual)
    x = inputs("mlp_nano")
    changed = with_residual(model, residual, allow_change=True)
    assert torch.isfinite(changed(x)).all()
    shared = changed.state_dict()
    assert all(torch.equal(shared[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_relpos_small_patch16_224", "VisionTransformerRelPos"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("resnet18", "ResNet"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_its_class(name, kind):
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    with pytest.raises(ValueError, match=f"^{kind} cannot be converted.*pre-norm Block"):
        with_residual(model, "attnres")


@pytest.mark.parametrize(
    "block",
    ["ResPostBlock", "ParallelScalingBlock", "DiffParallelScalingBlock", "ParallelThingsBlock"],
)
def test_blocks_that_are_not_pre_norm_are_refused(block):
    kind = getattr(timm.models.vision_transformer, block)
    model = timm.models.VisionTransformer(
        img_size=32, depth=2, embed_dim=24, num_heads=3, block_fn=kind
    )
    with pytest.raises(ValueError, match=f"has blocks of type {block}"):
        with_residual(model, "attnres")


def test_a_module_that_is_no_backbone_is_refused():
    with pytest.raises(ValueError, match="Linear cannot be converted"):
        with_residual(nn.Linear(2, 2), "attnres")


@pytest.mark.parametrize("residual", [name for name in EVERYWHERE if name != "add"])
def test_only_add_is_converted(residual):
    try:
        model = build("mlp_nano", residual=residual)
    except ValueError as error:
        pytest.skip(str(error))
    with pytest.raises(ValueError, match="only a model whose residual is 'add'"):
        with_residual(model, "attnres")


def test_a_model_without_a_final_norm_is_refused_where_the_scale_would_show():
    model = timm_model(final_norm=False)
    with pytest.raises(ValueError, match="Identity in VisionTransformer does not divide"):
        with_residual(model, "attnres")
    assert torch.equal(with_residual(model, "add")(images()), model(images()))
    assert with_residual(model, "attnres", allow_change=True)(images()).shape == (2, 7)


def test_an_unknown_residual_or_option_is_refused():
    with pytest.raises(ValueError, match="no residual named 'atnres'; did you mean 'attnres'"):
        with_residual(build("mlp_nano"), "atnres")
    with pytest.raises(ValueError, match="attnres takes no keyword 'block_size'"):
        with_residual(build("mlp_nano"), "attnres", block_size=2)


def test_every_trunk_is_replaced():
    model = with_residual(build("resnet_nano"), "attnres")
    kinds = [type(m.residual) for m in model.modules() if isinstance(m, Trunk)]
    assert kinds == [AttnRes, AttnRes]
