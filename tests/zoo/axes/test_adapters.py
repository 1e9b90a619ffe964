"""Every preset on every kind of network: it builds, it is saved, and it becomes dense again."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import merge
from archzoo.zoo import adapt, create_model, merge_lowrank, save_model
from archzoo.zoo.axes.adapters import adapter_config, adapter_info, make_adapter, presets
from torch import nn

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


class Codes(nn.Linear):
    """A linear layer of another library."""


def coded(dtype, kind=nn.Linear):
    """A layer that holds codes, and one that holds numbers."""
    layer = kind(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 4).to(dtype), requires_grad=False)
    return nn.Sequential(layer, nn.Linear(4, 4), nn.Linear(4, 4))


class Shared(nn.Module):
    """A linear layer whose weight is also that of an embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.out, self.free = nn.Embedding(9, 4), nn.Linear(4, 9), nn.Linear(4, 4)
        self.out.weight = self.embed.weight


def test_a_saved_dylora_runs_at_the_rank_that_was_set_and_at_all_of_its_ranks_again(tmp_path):
    model, x = made("mlp_nano", "dylora").eval(), example("mlp_nano")
    whole = model(x)
    model.lowrank.set_rank(1)
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    assert torch.equal(loaded(x), model(x)) and not torch.equal(model(x), whole)
    loaded.lowrank.set_rank(2)
    assert torch.equal(loaded(x), whole)


def test_what_is_left_of_an_adapter_keeps_the_ranks_of_its_weights(tmp_path):
    model = build("mlp_nano")
    names = list(adapt(copy.deepcopy(model), "lora", rank=1).targets)
    adapt(model, "lora", rank=4, ranks={names[0]: 2, names[1]: 3})
    merge(model, names=[names[0]])
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}")
    assert loaded.lowrank.factors()[names[1]].rank == 3 and names[0] not in loaded.lowrank.targets
    assert torch.equal(loaded.eval()(example("mlp_nano")), model.eval()(example("mlp_nano")))


CODED = torch.uint8, torch.int8, torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        (Shared, "out", "out cannot be a target: its weight is tied to embed.weight; untie it"),
        (nn.GELU, "*", r"targets: '\*' matches no linear or convolutional layer"),
        *[
            (lambda dtype=dtype: coded(dtype), "0",
             f"0 cannot be a target: its weight holds {dtype}, codes and not numbers; dequantise")
            for dtype in CODED
        ],
        (lambda: coded(torch.uint8, Codes), "0",
         r"targets: '0' matches no linear or convolutional layer: it is a tests\..*Codes; give"),
        (lambda: nn.Sequential(nn.Bilinear(4, 4, 4)), "0",
         "targets: '0' matches no linear or convolutional layer: it is a torch.nn.*Bilinear"),
    ],
)  # fmt: skip
def test_a_weight_that_no_adapter_can_stand_beside_is_refused_and_the_model_is_as_it_was(
    model, target, message
):
    model = model()
    before = [(n, p, p.requires_grad) for n, p in model.named_parameters()]
    with pytest.raises(ValueError, match=f"adapter=lora: {message}") as caught:
        adapt(model, "lora", [target], rank=1)
    assert "\n" not in str(caught.value)
    after = [(n, p, p.requires_grad) for n, p in model.named_parameters()]
    assert all(one[1] is two[1] for one, two in zip(before, after, strict=True))
    assert [each[2] for each in before] == [each[2] for each in after]


def test_weights_of_codes_are_left_out_where_none_is_named():
    controller = adapt(coded(torch.int8), "lora", ["*"], rank=1)
    assert "0" in controller.skipped and "0" not in controller.targets


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_merging_in_half_precision_is_refused_and_after_a_conversion_it_is_not(dtype):
    model = build("mlp_nano", adapter="lora").to(dtype)
    before = model.state_dict()
    with pytest.raises(ValueError, match=f"a weight in {dtype} would round away.*model.float"):
        merge_lowrank(model)
    assert model.state_dict().keys() == before.keys() and model.lowrank is not None
    merge_lowrank(model.float())
    assert model.lowrank is None


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
