"""The ViT: what its pools read, and which sizes it refuses."""

import pytest
import torch
from archzoo.zoo import create_model

from ..small_models import build, example, on_meta, trained

BITWISE = {"rtol": 0.0, "atol": 0.0}


def test_the_class_token_and_the_patches_are_pooled_and_no_register():
    model = build("vit_nano", registers=3)
    features = torch.randn(2, 4 + model.patch_embed.num_patches, model.num_features)
    torch.testing.assert_close(model.pool(features), features[:, 0], **BITWISE)
    model.set_global_pool("avg")
    torch.testing.assert_close(model.pool(features), features[:, 4:].mean(1), **BITWISE)


@pytest.mark.parametrize("registers", [0, 3])
def test_the_features_are_class_token_registers_and_patches(registers):
    model = on_meta("vit_nano", registers=registers)
    features = model.forward_features(example("vit_nano", device="meta"))
    length = 1 + registers + model.patch_embed.num_patches
    assert features.shape == (2, length, model.num_features)


def test_only_patches_carry_positions():
    model = trained(build("vit_nano", registers=2)).eval()
    x = example("vit_nano")
    before = model(x)
    with torch.no_grad():
        model.pos_embed.copy_(model.pos_embed.roll(1, 1))
    assert (model(x) - before).abs().max() > 1e-6
    assert model.pos_embed.shape[1] == model.patch_embed.num_patches


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_without_positions_the_order_of_patches_does_not_matter(global_pool):
    options = {"in_chans": 3, "img_size": 16, "patch_size": 4, "global_pool": global_pool}
    model = trained(build("vit_nano", **options)).double().eval()
    with torch.no_grad():
        model.pos_embed.zero_()
    x = example("vit_nano", dtype=torch.float64, **options)
    # Sums over the tokens run in another order; float64.
    torch.testing.assert_close(model(x.roll(4, 2).roll(8, 3)), model(x), rtol=1e-10, atol=1e-10)


def test_queries_and_keys_may_be_normed():
    plain, normed = on_meta("vit_nano"), on_meta("vit_nano", qk_norm=True)
    counts = [sum(p.numel() for p in model.parameters()) for model in (plain, normed)]
    heads = normed.trunk.branches[0].num_heads
    layers = len(normed.trunk.branches) // 2
    # A gain and a bias for queries and for keys, one head wide.
    assert counts[1] - counts[0] == layers * 4 * normed.num_features // heads


def test_dropout_acts_in_training_only():
    model = build("vit_nano", drop_rate=0.5)
    x = example("vit_nano")
    assert not torch.equal(model(x), model(x))
    model.eval()
    torch.testing.assert_close(model(x), model(x), **BITWISE)


def test_attention_weights_are_dropped_in_training_only():
    model, x = build("vit_nano", attn_drop_rate=0.5), example("vit_nano")
    plain = build("vit_nano")
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 30, "patch_size": 4}, r"does not divide img_size=30; .*\[1, 2, 3, 5, 6, 10"),
        ({"width": 66, "num_heads": 4}, "num_heads=4 does not divide width=66"),
        ({"global_pool": "max"}, "global_pool must be .*got 'max'"),
    ],
)
def test_a_bad_size_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("vit_nano", **options)
