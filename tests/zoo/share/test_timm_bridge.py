"""timm's tools see every model of the zoo under its own name."""

import pytest
import timm
import torch
from archzoo.zoo import create_model, list_models, register_with_timm
from archzoo.zoo.network import Network

from ..small_models import ALL, NANO, build, example, example_shape


@pytest.fixture(autouse=True)
def registered():
    """Register before each test; a second call does nothing."""
    assert register_with_timm() == list_models()


@pytest.mark.parametrize("name", ALL)
def test_timm_creates_every_model(name):
    assert timm.is_model(name)
    with torch.device("meta"):
        theirs, ours = timm.create_model(name), create_model(name)
    assert isinstance(theirs, Network)
    assert repr(theirs) == repr(ours)
    assert theirs.recipe == ours.recipe


@pytest.mark.parametrize("name", NANO)
def test_timm_builds_the_same_model_from_the_same_seed(name):
    models = []
    for make in (create_model, timm.create_model):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            models.append(make(name, num_classes=5))
    ours, theirs = models
    x = example(name)
    torch.testing.assert_close(theirs(x), ours(x), rtol=0.0, atol=0.0)


def test_registering_twice_changes_nothing():
    before = timm.models.model_entrypoint("mlp_nano")
    assert register_with_timm() == list_models()
    assert timm.models.model_entrypoint("mlp_nano") is before


def test_keywords_reach_the_builder():
    options = {"in_chans": 2, "num_classes": 7, "residual": "attnres", "drop_path_rate": 0.1}
    model = timm.create_model("vit_nano", **options)
    assert model.recipe == ("vit_nano", options)
    assert model(example("vit_nano", in_chans=2)).shape == (2, 7)


def test_empty_keywords_of_timms_trainer_are_ignored_where_they_are_not_known():
    model = timm.create_model(
        "gpt_nano",
        pretrained=False,
        in_chans=None,
        drop_rate=0.0,
        drop_block_rate=None,
        global_pool=None,
        bn_momentum=None,
        bn_eps=None,
        scriptable=False,
    )
    assert model.recipe == ("gpt_nano", {})


@pytest.mark.parametrize(
    ("name", "keyword", "value"),
    [
        ("gpt_nano", "drop_rate", 0.1),
        ("mlp_nano", "in_chans", 3),
        ("mlp_nano", "dept", 3),
        ("vit_nano", "img_sise", 64),
        ("mlp_nano", "global_pool", "avg"),
        ("vit_nano", "out_indices", (1,)),
        ("resnet_nano", "bn_momentum", 0.01),
        ("resnet_nano", "bn_eps", 1e-3),
    ],
)
def test_a_keyword_that_cannot_be_honoured_is_refused(name, keyword, value):
    with pytest.raises(ValueError, match=f"{name} takes no keyword '{keyword}'"):
        timm.create_model(name, **{keyword: value})


# What `pretrained_cfg` and its overlay say.


def test_weights_that_are_nowhere_are_refused():
    with pytest.raises(ValueError, match="vit_base has no pretrained weights; use .*'file'"):
        timm.create_model("vit_base", pretrained=True)
    with pytest.raises(ValueError, match="vit_nano has no pretrained weights 'in1k'; .*use"):
        timm.create_model("vit_nano.in1k")


def test_facts_of_data_are_recorded_and_kept(tmp_path):
    from archzoo.zoo import save_model

    facts = {"mean": (0.1,), "crop_pct": 1.0, "label_names": ("a", "b")}
    for form in (facts, {**facts, "mean": [0.1]}, timm.models.PretrainedCfg(**facts)):
        model = timm.create_model("vit_nano", pretrained_cfg=form)
        assert model.default_cfg["crop_pct"] == 1.0 and list(model.default_cfg["mean"]) == [0.1]
        assert model.conventions.keys() == facts.keys()
        assert model.recipe == ("vit_nano", {})
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}")
    assert timm.data.resolve_data_config({}, model=loaded)["crop_pct"] == 1.0


def test_sizes_become_keywords_where_the_caller_has_none():
    facts = {"input_size": (3, 16, 8), "num_classes": 4}
    model = timm.create_model("vit_nano", pretrained_cfg_overlay=facts)
    assert model.recipe.options == {"in_chans": 3, "img_size": (16, 8), "num_classes": 4}
    assert model.default_cfg["input_size"] == (3, 16, 8)
    model = timm.create_model("vit_nano", pretrained_cfg=facts, img_size=4, num_classes=0)
    assert model.recipe.options == {"in_chans": 3, "img_size": 4, "num_classes": 0}


def test_timms_own_resolution_of_a_size_builds_the_model_that_it_asks_for():
    asked = timm.models.resolve_model_input_args("vit_nano", {"img_size": 16, "in_chans": 3})
    model = timm.create_model(**asked)
    assert model.default_cfg["input_size"] == (3, 16, 16)
    assert model.default_cfg["architecture"] == "vit_nano"


@pytest.mark.parametrize("source", ["state_dict", "file"])
def test_weights_come_from_where_the_overlay_says(source, tmp_path):
    from archzoo.zoo.share.save_load import save_weights

    trained = build("vit_nano", seed=1)
    save_weights(trained, tmp_path / "w.safetensors")
    place = {"state_dict": trained.state_dict(), "file": str(tmp_path / "w.safetensors")}[source]
    overlay = {source: place}
    model = timm.create_model("vit_nano", pretrained=True, pretrained_cfg_overlay=overlay)
    x = example("vit_nano")
    torch.testing.assert_close(model.eval()(x), trained.eval()(x), rtol=0.0, atol=0.0)
    # timm's trainer says by -1 that the head does not fit.
    overlay["num_classes"] = -1
    options = {"num_classes": 3, "in_chans": 3}
    model = timm.create_model("vit_nano", True, pretrained_cfg_overlay=overlay, **options)
    assert model.num_classes == 3
    torch.testing.assert_close(model.norm.weight, trained.norm.weight, rtol=0.0, atol=0.0)
    torch.testing.assert_close(
        model.trunk.branches[0].qkv.weight, trained.trunk.branches[0].qkv.weight
    )


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("vit_nano", {"first_conv": "conv1"}, "says first_conv='conv1', but vit_nano has 'patch"),
        ("resnet_nano", {"fixed_input_size": True}, "fixed_input_size=True, but resnet_nano has F"),
        ("vit_nano", {"crop": 1.0}, "has no entry 'crop'; did you mean 'crop_"),
        ("gpt_nano", {"input_size": (3, 8, 8)}, "input_size=.* but gpt_nano reads tokens"),
        ("vit_nano", {"input_size": (1, 9, 9)}, "patch_size=2 does not divide img_size=9"),
    ],
)
def test_a_fact_that_contradicts_the_model_is_refused(name, facts, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, pretrained_cfg_overlay=facts)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt_nano", {}, "gpt_nano has no depths to take features from"),
        ("resnet_nano", {"feature_cls": "list"}, "must be 'getter' or 'hook', got 'list'"),
        ("resnet_nano", {"out_indices": (5,)}, r"there are 3 depths, 0 to 2, got \[5\]"),
    ],
)
def test_features_that_cannot_be_taken_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, features_only=True, **options)


@pytest.mark.parametrize("name", list_models("vit_*") + list_models("resnet*"))
def test_timms_data_tools_read_an_image_model(name):
    with torch.device("meta"):
        model = create_model(name)
    config = timm.data.resolve_data_config({}, model=model)
    assert config["input_size"] == example_shape(name)
    assert config["mean"] == model.default_cfg["mean"]
    assert config["std"] == model.default_cfg["std"]
    assert config["interpolation"] == "bicubic"


def test_timms_transform_feeds_the_model():
    from PIL import Image

    model = build("vit_nano", in_chans=3, img_size=32).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    x = transform(Image.new("RGB", (50, 40), (255, 0, 0)))[None]
    assert x.shape == (1, 3, 32, 32)
    assert model(x).shape == (1, model.num_classes)


def test_a_name_that_timm_has_is_refused_and_not_overwritten(monkeypatch):
    theirs = timm.models.model_entrypoint("resnet18")
    monkeypatch.setattr("archzoo.zoo.share.timm_bridge.list_models", lambda: ["resnet18"])
    with pytest.raises(ValueError, match="timm already has models named .'resnet18'"):
        register_with_timm()
    assert timm.models.model_entrypoint("resnet18") is theirs


def test_timms_optimiser_leaves_marked_parameters_alone():
    from timm.optim import create_optimizer_v2

    model = build("vit_nano_block_attnres")
    optimiser = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.1)
    free = {id(p) for g in optimiser.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    parameters = dict(model.named_parameters())
    assert {id(parameters[name]) for name in model.no_weight_decay()} <= free
    assert id(model.head.weight) not in free
