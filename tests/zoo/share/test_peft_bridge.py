"""Adapters in the files of peft and back; with peft installed, the same outputs in both."""

import copy

import pytest
import torch
from archzoo.layers.lowrank.adapters.bone import BlockAffine
from archzoo.layers.lowrank.adapters.randlora import RandomBases
from archzoo.zoo import apply_adapter, load_adapter, load_peft, save_adapter, save_peft
from archzoo.zoo.share.peft_bridge import from_peft, to_peft
from torch import nn

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale
LINEAR = ("lora", "rslora", "dora", "miss", "ffa_lora", "svfit", "lora_xs", "slora", "codyra")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, 9)
    ).double()  # fmt: skip


def batch():
    return torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def adapted(name, targets=("3", "5"), **more):
    model = network()
    controller = apply_adapter(model, {"name": name, "rank": 4, "targets": list(targets), **more})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += 0.1 * noise
    return model, controller


@pytest.mark.parametrize("name", LINEAR)
def test_files_of_peft_bring_the_outputs_back(name, tmp_path):
    model, controller = adapted(name)
    again = network()
    load_peft(again, save_peft(controller, tmp_path))
    torch.testing.assert_close(again(batch()), model(batch()), **CLOSE)


@pytest.mark.parametrize("name", ["lora", "dora", "miss"])
def test_a_round_trip_keeps_config_and_bits(name):
    config, tensors = to_peft(adapted(name)[1])
    again, found = to_peft(from_peft(network(), config, tensors))
    assert again == config and found.keys() == tensors.keys()
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_ranks_and_scales_that_differ_have_patterns():
    model, controller = adapted("dylora")
    controller.factors()["3"].rank = 2
    config, tensors = to_peft(controller)
    assert config["r"] == 2 or config["rank_pattern"]
    assert tensors["base_model.model.3.lora_A.weight"].shape == (2, 32)
    again = network()
    loaded = from_peft(again, config, tensors)
    torch.testing.assert_close(again(batch()), model(batch()), **CLOSE)
    found, kept = to_peft(loaded)
    assert found == config
    assert all(torch.equal(kept[key], value) for key, value in tensors.items())


def test_a_pattern_is_an_expression_on_the_end_of_a_name_and_the_first_that_matches_counts(
    tmp_path,
):
    config, tensors = to_peft(adapted("dora")[1])
    few = {key: t[..., :2] if "lora_B" in key else t[:2] if "lora_A" in key else t
           for key, t in tensors.items() if ".5." in key}  # fmt: skip
    few |= {key: tensor for key, tensor in tensors.items() if ".3." in key}
    patterns = {"rank_pattern": {"[45]": 2, ".*": 4}, "alpha_pattern": {"5": 3.0}}
    model = network()
    controller = from_peft(model, {**config, **patterns}, few)
    found = controller.factors()
    assert {name: f.rank for name, f in found.items()} == {"3": 4, "5": 2}
    assert found["5"].scale == 3.0 / 2 and found["3"].scale == config["lora_alpha"] / 4
    again = network()
    load_adapter(again, save_adapter(controller, tmp_path / "alone"))
    assert torch.equal(again(batch()), model(batch()))


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "ffa_lora"])
def test_single_weights_have_ranks_and_scales_of_their_own(name):
    spec = {"name": name, "rank": 4, "alpha": 6.0, "ranks": {"5": 2}, "alphas": {"3": 5.0}}
    _, controller = adapted(**spec)
    root = 0.5 if name == "rslora" else 1.0
    found = {key: (f.rank, f.scale) for key, f in controller.factors().items()}
    assert found == {"3": (4, 5.0 / 4**root), "5": (2, 6.0 / 2**root)}
    for setting, value, message in [
        ("ranks", {"4": 2}, "ranks and alphas: '4' is no target"),
        ("ranks", {"5": 99}, "rank=99 exceeds the full rank 9 of 5"),
        ("ranks", {"5": 0}, r"ranks\[5\] must be at least 1"),
        ("alphas", {"3": -1.0}, r"alphas\[3\] must be above 0, got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            apply_adapter(network(), {"name": name, "targets": ["3", "5"], setting: value})


def test_what_peft_does_not_know_is_refused_by_name():
    for name, kind in {"bone": BlockAffine, "randlora": RandomBases}.items():
        with pytest.raises(ValueError, match=f"3: peft does not know {kind.__name__}; merge"):
            to_peft(adapted(name, ("3",))[1])
    with pytest.raises(ValueError, match="3: peft does not know NystromFactors"):
        to_peft(adapted("nlora")[1])
    config, tensors = to_peft(adapted("miss")[1])
    with pytest.raises(ValueError, match="MiSS has one rank for all weights here; rank_pattern"):
        from_peft(network(), {**config, "rank_pattern": {"5": 2}}, tensors)
    config, tensors = to_peft(adapted("lora")[1])
    for change, message in {
        ("peft_type", "OFT"): "peft_type='OFT' is none of LORA and MISS",
        ("bias", "all"): "bias='all' is not supported",
        ("use_dora", True): "disagree on magnitude_vector",
        ("r", 3): "A is .* in the adapter, and the weight takes",
    }.items():
        model = network()
        with pytest.raises(ValueError, match=message):
            from_peft(model, {**config, change[0]: change[1]}, tensors)
        assert model.state_dict().keys() == network().state_dict().keys()


def test_a_folder_without_its_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="adapter_config.json is missing"):
        load_peft(network(), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "targets"),
    [(name, ("3", "5")) for name in LINEAR] + [("lora", ("0", "3")), ("dora", ("0", "3"))],
)
def test_peft_has_the_same_outputs_of_our_files(name, targets, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra peers")
    model, controller = adapted(name, targets)
    save_peft(controller, tmp_path)
    theirs = peft.PeftModel.from_pretrained(network(), tmp_path).double().eval()
    torch.testing.assert_close(theirs(batch()), model.eval()(batch()), **CLOSE)
    merged = copy.deepcopy(theirs).merge_and_unload()
    torch.testing.assert_close(merged(batch()), model(batch()), **CLOSE)


@pytest.mark.long
@pytest.mark.parametrize("variant", ["plain", "rslora", "dora", "miss"])
def test_what_peft_saved_has_the_same_outputs_here_and_the_same_bits_on_the_way_back(
    variant, tmp_path
):
    peft = pytest.importorskip("peft", reason="needs the extra peers")
    from safetensors.torch import load_file

    if variant == "miss":
        config = peft.MissConfig(r=4, target_modules=["3", "5"])
    else:
        flags = {} if variant == "plain" else {f"use_{variant}": True}
        config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["3", "5"], **flags)
    theirs = peft.get_peft_model(network(), config).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += 0.1 * noise
    theirs.save_pretrained(tmp_path / "theirs")
    ours = network()
    controller = load_peft(ours, tmp_path / "theirs")
    torch.testing.assert_close(ours(batch()), theirs.eval()(batch()), **CLOSE)
    save_peft(controller, tmp_path / "ours")
    one, two = (
        load_file(str(tmp_path / who / "adapter_model.safetensors")) for who in ("theirs", "ours")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.long
@pytest.mark.parametrize("target", ["3", "5", "wide"])
def test_randlora_of_peft_has_the_same_outputs_with_the_same_random_matrices(target):
    """Component (n, k) of ours is component k N + n of peft's, which reads its pairs across."""
    peft = pytest.importorskip("peft", reason="needs the extra peers")
    plain = nn.Sequential(nn.Linear(9, 32)).double() if target == "wide" else network()
    name = "0" if target == "wide" else target
    config = peft.RandLoraConfig(r=4, randlora_alpha=6, target_modules=[name])
    theirs = peft.get_peft_model(copy.deepcopy(plain), config).double()
    layer = theirs.base_model.model[int(name)]
    scales, gains = layer.randlora_lambda["default"], layer.randlora_gamma["default"]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (scales, gains):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    ours = copy.deepcopy(plain)
    spec = {"name": "randlora", "rank": 4, "alpha": 6.0, "targets": [name]}
    ((_, structure),) = apply_adapter(ours, spec).structures()
    terms = len(gains)
    across = [k * terms + n for n in range(terms) for k in range(4)]
    with torch.no_grad():
        structure.left = layer.randlora_B["default"].flatten(1)[:, across].double()
        structure.right = layer.randlora_A["default"][:, 0].double()
        structure.weights.copy_(scales.mT)
        structure.gains.copy_(gains)
    x = torch.randn(5, ours[int(name)].in_features, generator=generator).double()
    torch.testing.assert_close(ours[int(name)](x), layer(x), **CLOSE)
    merged = ours[int(name)].to_dense()
    torch.testing.assert_close(merged(x), layer(x), **CLOSE)
