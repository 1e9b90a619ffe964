"""Adapters saved alone: what a file holds, onto what it is loaded, several at once, on and off."""

import copy

import pytest
import torch
from archzoo.layers.lowrank import merge
from archzoo.layers.lowrank.adapters.lora_xs import mean_gradients
from archzoo.zoo import apply_adapter, create_model, save_model
from archzoo.zoo.axes.adapters import adapter_info, make_adapter, presets
from archzoo.zoo.share.adapter_files import load_adapter, remove_adapter, save_adapter
from archzoo.zoo.share.adapter_set import AdapterSet
from torch import nn
from torch.nn import functional as F

from ...tiers import tiered

CLOSE = {"rtol": 0.0, "atol": 1e-12}  # float64 at unit scale


def base(seed=0):
    """A network with a convolution, running statistics and a head, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(),
        nn.Linear(8 * 9, 12), nn.Tanh(), nn.Linear(12, 3),
    ).double()  # fmt: skip


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 2, 3, 3, generator=generator, dtype=torch.float64)


def spec_of(name, **more):
    options = adapter_info(name).options
    few = {"rank": 2, "active": 1, "targets": ["0", "4"], "total_steps": 10, "share": 0.2}
    return {"name": name, **{k: v for k, v in few.items() if k in options}, **more}


def trained(name, seed=1, **more):
    """A base with an adapter after a few steps."""
    model = base()
    spec = spec_of(name, **more)
    given = None
    if "gradients" in adapter_info(name).options:
        given = mean_gradients([batch()], lambda net, x: net(x).square().sum())
    controller = apply_adapter(model, spec, statistics=given)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    controller.held_out = lambda number: model(batch(90 + number)).square().sum()
    controller.attach(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        for micro in range(2):
            loss = (model(batch(10 * seed + 2 * step + micro)) - seed).square().sum()
            controller.note_loss(loss)
            loss.backward()
        optimizer.step()
    return model.eval(), controller


def saved(name, folder, **more):
    model, controller = trained(name, **more)
    return model, save_adapter(controller, folder / f"{name}.safetensors")


@pytest.mark.parametrize(
    "name",
    tiered(
        [name for name in presets.names() if make_adapter(name).kept_whole],
        ("lora", "increlora"),
    ),
)
def test_an_adapter_that_was_saved_alone_gives_the_same_outputs_beside_its_base(name, tmp_path):
    model, path = saved(name, tmp_path, train_also=["6"])
    again = base()
    controller = load_adapter(again, path)
    assert torch.equal(again.eval()(batch()), model(batch()))
    old = dict(model.named_parameters())
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in old.items() if p.requires_grad
    }
    # A gate reads the input of a linear layer, so a convolution has none.
    assert list(controller.targets) == (["0", "4"] if make_adapter(name).is_matrix else ["4"])
    path_again = save_adapter(controller, tmp_path / "again.safetensors")
    assert path_again.read_bytes() == path.read_bytes()


def test_a_file_has_no_frozen_weight_in_it(tmp_path):
    _, path = saved("lora", tmp_path)
    numbers = 2 * (8 + 18) + 2 * (12 + 72)
    assert path.stat().st_size < 8 * numbers + 3000 < 8 * 12 * 72


@pytest.mark.parametrize("name", ["lora", "dora", "nlora"])
def test_taking_an_adapter_off_gives_the_bits_of_the_base_back(name):
    model, _ = trained(name)
    plain = base().eval()
    names = remove_adapter(model)
    assert names == ["0", "4"]
    plain[1].load_state_dict(model[1].state_dict())  # running statistics are no weights
    assert torch.equal(model(batch()), plain(batch()))
    assert list(model.state_dict()) == list(plain.state_dict())


def test_an_adapter_of_other_weights_is_refused_and_the_model_is_as_it_was(tmp_path):
    _, path = saved("lora", tmp_path)
    other = base(seed=1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="is an adapter of other weights, or of these in another"):
        load_adapter(other, path)
    with pytest.raises(ValueError, match="is an adapter of another model: this one has no 1"):
        load_adapter(nn.Sequential(nn.Linear(3, 3)).double(), path)
    with pytest.raises(ValueError, match="in another precision"):
        load_adapter(base().float(), path)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert all(p.requires_grad for p in other.parameters())


def test_a_damaged_or_missing_file_and_a_second_adapter_are_refused(tmp_path):
    model, path = saved("lora", tmp_path)
    with pytest.raises(ValueError, match="no adapter at .*nowhere; bring a copy of it back"):
        load_adapter(base(), tmp_path / "nowhere")
    whole = path.read_bytes()
    for place in (len(whole) // 2, len(whole) - 1):
        flipped = bytes([whole[place] ^ 1])
        (tmp_path / "bad").write_bytes(whole[:place] + flipped + whole[place + 1 :])
        with pytest.raises(ValueError, match="bad is damaged"):
            load_adapter(base(), tmp_path / "bad")
    (tmp_path / "cut").write_bytes(whole[:100])
    with pytest.raises(ValueError, match="cut is damaged"):
        load_adapter(base(), tmp_path / "cut")
    x = model(batch())
    with pytest.raises(ValueError, match="0 has an adapter or factors already; call remove_ada"):
        load_adapter(model, path)
    assert torch.equal(model(batch()), x)


def test_only_an_adapter_made_by_name_is_saved_alone(tmp_path):
    from archzoo.layers.lowrank import ReLoRA, reparametrize

    with pytest.raises(ValueError, match="ReLoRA was not made by apply_adapter"):
        save_adapter(reparametrize(base(), ReLoRA(rank=2), ["4"]), tmp_path / "a")
    model, controller = trained("codyra")
    controller.end_task()
    path = save_adapter(controller, tmp_path / "b")
    with pytest.raises(ValueError, match="is an adapter of other weights"):
        load_adapter(base(), path)


def test_a_zoo_model_with_an_adapter_is_saved_whole_and_alone(tmp_path):
    model = create_model("mlp_nano", in_features=8, num_classes=3)
    save_model(model, tmp_path / "base")
    adapted = create_model(f"local-dir:{tmp_path / 'base'}", adapter={"name": "lora", "rank": 2})
    with torch.no_grad():
        for _, structure in adapted.lowrank.structures():
            structure.left.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    expected = adapted.eval()(x)
    save_model(adapted, tmp_path / "whole")
    assert torch.equal(create_model(f"local-dir:{tmp_path / 'whole'}").eval()(x), expected)
    path = save_adapter(adapted.lowrank, tmp_path / "alone.safetensors")
    again = create_model(f"local-dir:{tmp_path / 'base'}")
    load_adapter(again, path)
    assert torch.equal(again.eval()(x), expected)
    assert again.recipe.options["adapter"]["name"] == "lora"
    remove_adapter(again)
    assert again.recipe == model.recipe and torch.equal(again(x), model.eval()(x))


@pytest.fixture
def pair(tmp_path):
    """Two adapters of one base, saved, and the models they were trained in, without statistics."""
    found = {}
    for seed, name in enumerate(("lora", "dora"), 1):
        model, controller = trained(name, seed=seed)
        model[1].load_state_dict(base()[1].state_dict())
        found[name] = model, save_adapter(controller, tmp_path / f"{name}.safetensors")
    return found


def test_adapters_of_a_set_are_switched_on_and_off_and_the_base_keeps_its_bits(pair):
    model = base().eval()
    plain, x = base().eval()(batch()), batch()
    adapters = AdapterSet(model)
    for name, (_, path) in pair.items():
        adapters.add(name, path)
        assert torch.equal(model(x), plain)
    for name in ("lora", "dora", "lora"):
        adapters.use(name)
        assert torch.equal(model(x), pair[name][0](x))
    adapters.use()
    assert torch.equal(model(x), plain)
    assert adapters.names == ["lora", "dora"] and adapters.active == ()
    assert not any(p.requires_grad for p in model.parameters())


def test_adapters_that_are_on_together_add_what_each_changes(pair):
    model = base().eval()
    adapters = AdapterSet(model)
    for name, (_, path) in pair.items():
        adapters.add(name, path)
    adapters.use("lora", "dora")
    summed = base().eval()
    with torch.no_grad():
        for place in (0, 4):
            for name in pair:
                summed[place].weight += pair[name][0][place].weight - base()[place].weight
    torch.testing.assert_close(model(batch()), summed(batch()), **CLOSE)
    adapters.fold()
    torch.testing.assert_close(model(batch()), summed(batch()), **CLOSE)
    adapters.unfold()
    adapters.use()
    assert torch.equal(model(batch()), base().eval()(batch()))
    adapters.use("dora", "lora")
    merge(model)
    torch.testing.assert_close(model(batch()), summed(batch()), **CLOSE)


def test_a_head_comes_and_goes_with_its_adapter_and_two_heads_are_refused(tmp_path):
    paths = {}
    for seed, name in enumerate(("lora", "miss"), 1):
        model, controller = trained(name, seed=seed, train_also=["6"])
        paths[name] = save_adapter(controller, tmp_path / name), model
    model = base().eval()
    plain = model(batch())
    adapters = AdapterSet(model)
    for name, (path, _) in paths.items():
        adapters.add(name, path)
    adapters.use("miss")
    assert torch.equal(model(batch()), paths["miss"][1](batch()))
    with pytest.raises(ValueError, match="lora and miss have each their own"):
        adapters.use("lora", "miss")
    assert adapters.active == ("miss",)
    assert torch.equal(model(batch()), paths["miss"][1](batch()))
    adapters.use()
    assert torch.equal(model(batch()), plain)


def test_what_a_set_cannot_do_is_refused(pair):
    model = base().eval()
    adapters = AdapterSet(model)
    adapters.add("one", pair["lora"][1])
    for name, message in {"one": "is taken", "a.b": "is taken, or no name", "": "no name"}.items():
        with pytest.raises(ValueError, match=message):
            adapters.add(name, pair["dora"][1])
    with pytest.raises(ValueError, match="no adapter 'two'; there are one"):
        adapters.use("two")
    with pytest.raises(ValueError, match="twice"):
        adapters.use("one", "one")
    with pytest.raises(ValueError, match="has a structure already"):
        AdapterSet(model)
    adapters.use("one")
    before = model(batch())
    with pytest.raises(ValueError, match="of another model|of other weights"):
        other = AdapterSet(base(seed=1))
        other.add("one", pair["lora"][1])
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="would round away what the adapter changes"):
        adapters.fold()
    assert F.mse_loss(model(batch().bfloat16()).double(), before) < 0.1


@pytest.mark.compiles
def test_switching_in_a_compiled_model_is_followed(pair):
    model = base().eval()
    adapters = AdapterSet(model)
    for name, (_, path) in pair.items():
        adapters.add(name, path)
    compiled = torch.compile(model, backend="eager")
    for names in (("lora",), (), ("dora",), ("lora", "dora")):
        adapters.use(*names)
        torch.testing.assert_close(compiled(batch()), model(batch()), **CLOSE)


@pytest.mark.parametrize("method", ["cat", "truncate", "lego"])
def test_a_merged_adapter_does_what_several_do_together(method, tmp_path):
    model = base().eval()
    adapters = AdapterSet(model)
    for seed, name in enumerate(("lora", "codyra"), 1):
        trained_, controller = trained(name, seed=seed)
        trained_[1].load_state_dict(base()[1].state_dict())
        adapters.add(name, save_adapter(controller, tmp_path / name))
    adapters.use("lora", "codyra")
    together = model(batch())
    adapters.merge("both", ["lora", "codyra"], method, rank=None if method == "cat" else 4,
                   weights=[1, 1])  # fmt: skip
    torch.testing.assert_close(model(batch()), together, **CLOSE)
    adapters.use("both")
    torch.testing.assert_close(model(batch()), together, **CLOSE)
    path = adapters.save("both", tmp_path / "both")
    again = base().eval()
    load_adapter(again, path)
    torch.testing.assert_close(again.eval()(batch()), together, **CLOSE)


def test_what_cannot_be_merged_is_refused_by_name(pair):
    adapters = AdapterSet(base())
    for name, (_, path) in pair.items():
        adapters.add(name, path)
    with pytest.raises(ValueError, match="0: what DirectedFactors adds is no product.*truncate"):
        adapters.merge("both", ["lora", "dora"], "cat")
    with pytest.raises(ValueError, match="0: what DirectedFactors adds is no product.*truncate"):
        adapters.merge("both", ["lora", "dora"], "average")
    with pytest.raises(ValueError, match="rank must lie in"):
        adapters.merge("both", ["lora", "dora"], "truncate", rank=99)
    with pytest.raises(ValueError, match="method must be one of cat"):
        adapters.merge("both", ["lora"], "tact")
    with pytest.raises(ValueError, match="no adapter 'miss'"):
        adapters.merge("both", ["lora", "miss"])
    with pytest.raises(ValueError, match="was not merged here"):
        adapters.save("lora", "nowhere")


def test_adapters_over_a_shared_factor_are_averaged_exactly(tmp_path):
    model = base().eval()
    adapters, weights = AdapterSet(model), []
    for seed in (1, 2):
        trained_, controller = trained("ffa_lora", seed=seed)
        weights.append(trained_[4].weight.detach())
        adapters.add(f"client{seed}", save_adapter(controller, tmp_path / str(seed)))
    adapters.merge("mean", adapters.names, "average")
    adapters.use("mean")
    torch.testing.assert_close(model[4].weight, sum(weights) / 2, **CLOSE)
    assert not torch.equal(weights[0], weights[1])
