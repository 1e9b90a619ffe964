"""Every preset on every kind of network: it builds, it is saved, and it becomes dense again."""

import copy

import pytest
import torch
from archzoo.zoo import adapt, create_model, merge_lowrank, save_model
from archzoo.zoo.axes.adapters import adapter_config, adapter_info, make_adapter, presets

from ...close import assert_close_in_scale
from ...tiers import tiered
from ..small_models import build, example, loss_of, on_meta

NETWORKS = ["mlp_nano", "vit_nano", "resnet_nano", "gpt_nano", "poincare_mlp_nano"]
EVERY = [(network, name) for network in NETWORKS for name in presets.names()]
USUAL = [("resnet_nano", "lora"), ("gpt_nano", "nlora"), ("poincare_mlp_nano", "dora")]
EACH = pytest.mark.parametrize(("network", "name"), tiered(EVERY, USUAL))


def spec_of(name):
    """Small ranks, which suit all weights of the small models."""
    options = adapter_info(name).options
    few = {"rank": 2, "active": 1, "adapters": 2}
    return {"name": name, **{k: v for k, v in few.items() if k in options}}


def made(network, name):
    """A network with an adapter, with noise on what is trained; None where it has no place."""
    spec = spec_of(name)
    if make_adapter(spec).reads:
        spec["gradients"] = False
    try:
        model = build(network, adapter=spec)
    except ValueError as error:
        assert "is a target of" in str(error)
        pytest.skip(f"{network} has no weight for {name}")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@EACH
def test_only_the_adapter_gets_a_gradient_and_all_of_it_does(network, name):
    model = made(network, name)
    loss_of(model(example(network))).backward()
    own = {id(p) for target in model.lowrank.targets.values() for p in target.parameters()}
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.requires_grad == (id(parameter) in own), key


@EACH
def test_a_saved_model_with_an_adapter_comes_back_and_merges(network, name, tmp_path):
    model = made(network, name).eval()
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    x = example(network)
    before = model(x)
    assert torch.equal(loaded(x), before)
    assert loaded.recipe == model.recipe
    assert not any(p.requires_grad for n, p in loaded.named_parameters() if "extra.weight" in n)
    if not model.lowrank.method.is_matrix:
        with pytest.raises(ValueError, match="have an activation between their factors"):
            merge_lowrank(model)
        return
    merge_lowrank(model)
    assert_close_in_scale(model(x), before, 3e-5)  # float32, and another order of products
    assert set(model.state_dict()) == set(on_meta(network).state_dict())
    assert model.recipe == on_meta(network).recipe and model.lowrank is None


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_says_where_it_comes_from_and_every_setting_has_a_type(name):
    entry = adapter_info(name)
    assert entry.summary and entry.source
    entry.check({key: option.default for key, option in entry.options.items()})
    assert adapter_config({"name": name, "seed": 0, "train_also": []}) == name
    assert make_adapter(name).settings()


def test_a_second_adapter_and_one_beside_factors_are_refused():
    model = build("mlp_nano", adapter="lora")
    with pytest.raises(ValueError, match="follow LoRA already; call merge_lowrank"):
        adapt(model, "dora")
    with pytest.raises(ValueError, match="follow LowRank already"):
        build("mlp_nano", lowrank="low_rank", adapter="lora")
    with pytest.raises(ValueError, match="no adapter named 'lroa'; did you mean 'lora'"):
        build("mlp_nano", adapter="lroa")
    with pytest.raises(ValueError, match="lists of patterns"):
        adapt(build("mlp_nano"), "lora", train_also="head")


def test_a_copy_of_an_adapted_model_has_a_controller_of_its_own():
    model = build("mlp_nano", adapter="dylora")
    model.lowrank.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    copied = copy.deepcopy(model)
    assert copied.lowrank.model is copied and copied.lowrank.spec == model.lowrank.spec
    assert copied.lowrank.optimizers == []


@pytest.mark.slow
def test_models_of_timm_take_adapters_too():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model.eval()(x)
    controller = adapt(model, "dora", ["*.attn.qkv"], ["head"], rank=2)
    assert len(controller.targets) == 12
    torch.testing.assert_close(model.eval()(x), before, rtol=0, atol=1e-4)
    assert model.head.weight.requires_grad and not model.patch_embed.proj.weight.requires_grad
