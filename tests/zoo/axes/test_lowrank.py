"""Every low-rank method on every kind of network: it trains, it is saved, and it becomes dense."""

import copy
import functools
import json

import pytest
import torch
from archzoo.layers.lowrank import FactoredLinear, Factors, merge, reparametrize, structures
from archzoo.zoo import apply_lowrank, create_model, merge_lowrank, save_model
from archzoo.zoo.axes.lowrank import lowrank_config, make_method, method_info, methods
from torch import nn

from ...close import assert_close_in_scale
from ..small_models import build, example, loss_of, on_meta

NETWORKS = ["mlp_nano", "vit_nano", "resnet_nano", "gpt_nano"]
EVERY = [(name, method) for name in NETWORKS for method in methods.names()]
EACH = pytest.mark.parametrize(("name", "method"), EVERY, ids=lambda value: value)


def spec_of(method):
    """Return a method that works on every network: the paper's TRP takes convolutions only."""
    return {"name": method, "min_kernel": 1} if method == "trp" else method


@functools.cache
def original(name, method):
    return build(name, lowrank=spec_of(method))


def made(name, method):
    """Return a copy of a network that a method worked on, with noise on what is trained."""
    model = copy.deepcopy(original(name, method))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@EACH
def test_all_that_is_trained_gets_a_gradient_and_nothing_else_does(name, method):
    model = made(name, method)
    logits = model(example(name))
    assert logits.isfinite().all()
    loss_of(logits).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


@EACH
def test_a_saved_model_comes_back_with_the_same_bits(name, method, tmp_path):
    model = made(name, method).eval()
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    x = example(name)
    assert torch.equal(loaded(x), model(x))
    assert loaded.recipe == model.recipe
    assert list(loaded.lowrank.targets) == list(model.lowrank.targets)


@EACH
def test_merging_keeps_the_outputs_and_gives_the_names_of_the_dense_network(name, method):
    model = made(name, method).eval()
    x = example(name)
    before = model(x)
    fixed = [n for n, _, structure in structures(model) if not structure.is_matrix]
    if fixed:
        with pytest.raises(ValueError, match="have an activation between their factors"):
            merge_lowrank(model)
        return
    merge_lowrank(model)
    # float32, and two products in the place of one.
    assert_close_in_scale(model(x), before, 3e-5)
    dense = on_meta(name)
    assert list(model.state_dict()) == list(dense.state_dict())
    assert model.recipe == dense.recipe
    assert model.lowrank is None


@pytest.mark.parametrize("method", methods.names())
def test_a_method_builds_without_memory_as_it_builds_with(method):
    model = original("vit_nano", method)
    # Its recipe holds what a method read off its weights.
    ghost = on_meta("vit_nano", lowrank=model.recipe.options["lowrank"])
    sizes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in ghost.state_dict().items()} == sizes
    assert all(p.is_meta for p in ghost.parameters())


@pytest.mark.parametrize("method", methods.names())
def test_a_method_says_where_it_comes_from_and_every_setting_has_a_type(method):
    entry = method_info(method)
    assert entry.summary and entry.source
    entry.check({name: option.default for name, option in entry.options.items()})
    assert make_method(method).settings()


@pytest.mark.parametrize("method", methods.names())
def test_the_first_and_the_last_layer_stay_dense_unless_they_are_named(method):
    names = list(original("resnet_nano", method).lowrank.targets)
    assert names
    assert not [name for name in names if name.startswith(("stem", "head"))]


def test_a_copy_has_a_controller_of_its_own():
    model = build("mlp_nano", lowrank="maestro")
    model.lowrank.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    copied = copy.deepcopy(model)
    assert copied.lowrank.model is copied
    assert copied.lowrank.optimizers == []
    inside = set(copied.modules())
    assert all(target.module in inside for target in copied.lowrank.targets.values())
    copied.lowrank.truncate("trunk.branches.0.0", 3)
    assert model.lowrank.factors()["trunk.branches.0.0"].rank > 3


def test_ranks_that_shrank_come_back(tmp_path):
    model = build("mlp_nano", lowrank="maestro")
    model.lowrank.truncate("trunk.branches.0.0", 5)
    model.lowrank.factors()["trunk.branches.0.3"].rank = 4
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}")
    assert loaded.lowrank.factors()["trunk.branches.0.0"].allocated == 5
    assert loaded.lowrank.factors()["trunk.branches.0.3"].rank == 4
    x = example("mlp_nano")
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_a_weight_that_became_dense_is_dense_again_on_loading(tmp_path):
    model = build("mlp_nano", lowrank="maestro")
    layer = model.trunk.branches[0][0]
    assert isinstance(layer, FactoredLinear)
    model.trunk.branches[0][0] = layer.to_dense()
    loaded = create_model(f"local-dir:{save_model(model, tmp_path / 'partly')}")
    assert type(loaded.trunk.branches[0][0]) is nn.Linear
    assert isinstance(loaded.trunk.branches[1][0], FactoredLinear)
    merge(model)
    folder = save_model(model, tmp_path / "dense")
    config = json.loads((folder / "config.json").read_text())
    assert (config["name"], config["options"]) == ("mlp_nano", {})


def test_the_config_holds_what_was_changed_and_nothing_else(tmp_path):
    spec = {"name": "maestro", "group_lasso": 0.5, "sampler": "pairs", "targets": ["*.0.0"]}
    model = build("mlp_nano", width=16, lowrank=spec)
    config = json.loads((save_model(model, tmp_path) / "config.json").read_text())
    assert config["options"] == {
        "width": 16,
        "lowrank": {"name": "maestro", "group_lasso": 0.5, "targets": ["*.0.0"]},
    }
    assert lowrank_config("trp") == lowrank_config({"name": "trp"}) == "trp"


def test_the_random_choices_follow_from_the_seed_and_leave_the_global_generator_alone():
    models = [build("mlp_nano", lowrank={"name": "relora", "seed": seed}) for seed in (3, 3, 4)]
    right = [m.trunk.branches[0][0].structure.right for m in models]
    assert torch.equal(right[0], right[1])
    assert not torch.equal(right[0], right[2])
    torch.manual_seed(0)
    create_model("mlp_nano")
    state = torch.get_rng_state()
    torch.manual_seed(0)
    create_model("mlp_nano", lowrank="relora")
    assert torch.equal(torch.get_rng_state(), state)


BAD = [
    ("mastro", "no low-rank method named 'mastro'; did you mean 'maestro'"),
    (3, "lowrank must be a name or a mapping with a name, got 3"),
    ({"rank": 3}, "has no 'name'; give one of"),
    ({"name": "maestro", "treshold": 0.1}, "takes no keyword 'treshold'; did you mean 'threshold'"),
    ({"name": "maestro", "shrink_every": 0.5}, "shrink_every must be int, got 0.5"),
    ({"name": "relora", "rank": 0}, "lowrank=relora: rank must be at least 1"),
    ({"name": "relora", "rank": 1.5}, r"lowrank=relora: rank must be a share in \(0, 1\]"),
    ({"name": "relora", "rank": 4000, "targets": ["*.0.0"]}, "rank=4000 exceeds the full rank"),
    ({"name": "relora", "targets": ["*.atn"]}, r"'\*.atn' matches no linear or convolutional"),
    ({"name": "relora", "targets": "*.0"}, r"targets must be list\[str\] \| None, got '\*.0'"),
    ({"name": "relora", "learning_rate_ratio": 0}, "learning_rate_ratio must be above 0, got 0"),
    ({"name": "maestro", "sampler": "pair"}, "sampler must be"),
]


@pytest.mark.parametrize(("spec", "said"), BAD, ids=[str(spec) for spec, _ in BAD])
def test_a_mistake_is_named(spec, said):
    with pytest.raises(ValueError, match=said):
        build("mlp_nano", lowrank=spec)


def test_a_second_method_is_refused():
    with pytest.raises(ValueError, match="follow Maestro already; call merge_lowrank"):
        apply_lowrank(build("mlp_nano", lowrank="maestro"), "trp")


def test_a_weight_that_holds_nan_is_refused_and_the_model_stays_as_it_was():
    model = build("mlp_nano")
    with torch.no_grad():
        model.trunk.branches[1][0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="branches.1.0 holds NaN"):
        apply_lowrank(model, "maestro")
    assert model.lowrank is None and not list(structures(model))


def test_a_structure_that_no_recipe_knows_is_not_saved(tmp_path):
    model = build("mlp_nano")
    reparametrize(model, make_method("maestro"))
    with pytest.raises(ValueError, match=r"apply_lowrank\(model, …\)"):
        save_model(model, tmp_path)


def test_a_damaged_spec_is_named_with_its_file(tmp_path):
    folder = save_model(build("mlp_nano", lowrank="maestro"), tmp_path)
    text = (folder / "config.json").read_text().replace("maestro", "maestr")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json: no low-rank method named 'maestr'"):
        create_model(f"local-dir:{folder}")


def test_a_replaced_head_leaves_the_method_alone(tmp_path):
    model = build("mlp_nano", lowrank="maestro")
    model.reset_classifier(3)
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}")
    assert loaded.num_classes == 3
    assert isinstance(loaded.trunk.branches[0][0].structure, Factors)


@EACH
def test_a_model_with_frozen_weights_comes_back_with_the_same_structures(name, method, tmp_path):
    model = build(name)
    frozen = next(iter(original(name, method).lowrank.targets))
    model.get_submodule(frozen).requires_grad_(False)
    apply_lowrank(model, spec_of(method))
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}")
    assert list(loaded.lowrank.targets) == list(model.lowrank.targets)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    if not model.lowrank.method.takes_frozen:
        assert "requires_grad=False" in model.lowrank.skipped[frozen]
