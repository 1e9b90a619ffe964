"""Whatever changes a model's structure comes back from a folder, or is refused by name."""

import functools
import json
import logging

import pytest
import timm
import torch
from archzoo.layers.hyperbolic import PoincareMLR
from archzoo.layers.lowrank import merge, reparametrize
from archzoo.layers.residual import BlockAttnRes, Scaled
from archzoo.zoo import (
    apply_lowrank,
    create_model,
    fuse_parallel,
    merge_lowrank,
    model_info,
    save_model,
    to_parallel,
    use_hyperbolic_head,
    with_residual,
)
from archzoo.zoo.axes.lowrank import make_method, methods
from archzoo.zoo.axes.residuals import residuals
from archzoo.zoo.models import heads
from archzoo.zoo.share.transfer_weights import adapt_input_conv
from archzoo.zoo.transform.compress import decompose, factorize
from archzoo.zoo.transform.plain_layers import plain_layers
from torch import nn

from ..tiers import tiered
from .small_models import (
    ALL,
    BACKBONES,
    CLASSES,
    HEADED,
    KINDS,
    SMALL,
    build,
    example,
    fits,
    trained,
)


def same(one, two):
    """Compare bit by bit; a network of wild weights may answer NaN."""
    torch.testing.assert_close(one, two, rtol=0.0, atol=0.0, equal_nan=True)


def came_back(model, name, folder):
    """Save, load and compare every output and every name of a weight."""
    options = model.recipe.options
    loaded = create_model(f"local-dir:{save_model(model, folder)}")
    x = example(name, **{k: v for k, v in options.items() if k in ("in_chans", "img_size")})
    same(loaded.eval()(x), model.eval()(x))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    again = create_model(loaded.recipe.name, **loaded.recipe.options)
    assert again.state_dict().keys() == model.state_dict().keys()
    return loaded


# Every change of structure that the library offers: a new model, or the old one changed.


def _compressed(model):
    return decompose(model, energy=0.3)


def _merged(model):
    apply_lowrank(model, "low_rank")
    merge_lowrank(model)
    return model


def _in_part(model):
    controller = apply_lowrank(model, "low_rank")
    merge(model, names=list(controller.targets)[:1])
    return model


def _replaced(model):
    model.head = nn.Linear(model.num_features, model.num_classes)
    return model


CHANGES = {
    "reset_classifier": lambda model: model.reset_classifier(7),
    "reset_classifier, twice": lambda model: (model.reset_classifier(0), model.reset_classifier(3)),
    "no classifier": lambda model: model.reset_classifier(0),
    "set_global_pool": lambda model: model.set_global_pool("avg"),
    "use_hyperbolic_head": use_hyperbolic_head,
    "use_hyperbolic_head, with settings": lambda model: use_hyperbolic_head(
        model, curvature=0.3, learned_curvature=True, clip=None
    ),
    "hyperbolic, then other classes": lambda model: (
        use_hyperbolic_head(model, clip=2.0),
        model.reset_classifier(4),
    ),
    "other classes, then hyperbolic": lambda model: (
        model.reset_classifier(4),
        use_hyperbolic_head(model),
    ),
    "to_parallel": lambda model: to_parallel(model, 2),
    "to_parallel, all": lambda model: to_parallel(model, None),
    "decompose": _compressed,
    "apply_lowrank, then merge": _merged,
    "apply_lowrank, then merge in part": _in_part,
    "apply_lowrank, then other classes": lambda model: (
        apply_lowrank(model, "sltrain"),
        model.reset_classifier(3),
    ),
    "apply_lowrank, then hyperbolic": lambda model: (
        apply_lowrank(model, "low_rank"),
        use_hyperbolic_head(model),
    ),
    "with_residual, then other classes": lambda model: changed(
        lambda model: model.reset_classifier(3), with_residual(model, "scaled", allow_change=True)
    ),
}
# What the functions say of a model that they do not fit; anything else is a failure.
UNFIT = (
    "has no choice of global_pool",
    "has no classifier to replace",
    "runs no Trunk",
    "is not additive",
    "maps the stream after every sum",
    "is a target of",
    "already has the residual",
    "cannot be converted",
    "takes one tensor",
    "lies in a ball, and its head in the same one",
    "a clipped head reads tangents of the ball",
)


def changed(change, model):
    """Apply a change, or skip what says that it does not fit."""
    try:
        made = CHANGES[change](model) if isinstance(change, str) else change(model)
    except ValueError as error:
        if any(part in str(error) for part in UNFIT):
            pytest.skip(str(error))
        raise
    return made if isinstance(made, nn.Module) else model


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", tiered(KINDS, CLASSES))
def test_a_changed_model_comes_back(name, change, tmp_path):
    model = changed(change, trained(build(name)))
    came_back(trained(model, seed=1), name, tmp_path)


@pytest.mark.parametrize("residual", residuals.names())
@pytest.mark.parametrize(
    "name",
    tiered([name for name in CLASSES if name in BACKBONES], ["mlp_nano"]),
)
def test_every_residual_that_a_model_was_given_comes_back(name, residual, tmp_path):
    name = name if fits(name, residual) else "vit_nano"
    # Of networks of graphs an activation is another thing.
    given = {"activation": "pre"} if "'pre'" in str(model_info(name).options) else {}
    model = trained(build(name, residual="add", **given))
    model = changed(lambda model: with_residual(model, residual, allow_change=True), model)
    if given and residual == "deepnorm":  # its norms stand on the stream, whatever was given
        with pytest.raises(ValueError, match="its recipe does not rebuild it: DeepNorm is a post"):
            save_model(model, tmp_path)
        return
    came_back(trained(model, seed=1), name, tmp_path)


@pytest.mark.parametrize("method", [name for name in methods.names() if name != "fixed_ranks"])
@pytest.mark.parametrize("name", ["resnet_nano", "gpt_nano"])
def test_every_lowrank_method_comes_back_with_every_head(name, method, tmp_path):
    model = changed(lambda model: apply_lowrank(model, method) and None, trained(build(name)))
    use_hyperbolic_head(model, clip=3.0).reset_classifier(5)
    came_back(trained(model, seed=1), name, tmp_path)


def test_a_head_that_a_user_registered_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "_entries", dict(heads._entries))  # no other test shall see it

    @heads.register(name="of_a_test")
    def of_a_test(model, *, bias: bool = True):
        """A linear head."""
        model.use_head(lambda n, k: nn.Linear(n, k, bias=bias))

    model = create_model("mlp_nano", classifier={"name": "of_a_test", "bias": False})
    assert model.recipe == ("mlp_nano", {"classifier": {"name": "of_a_test", "bias": False}})
    loaded = came_back(trained(model), "mlp_nano", tmp_path)
    loaded.reset_classifier(3)
    assert loaded.head.bias is None and loaded.head.out_features == 3
    with pytest.raises(ValueError, match="of_a_test takes no keyword 'bia'; did you mean 'bias'"):
        create_model("mlp_nano", classifier={"name": "of_a_test", "bia": False})
    with pytest.raises(ValueError, match="no classifier named 'hyperbolik'; did you mean 'hyperb"):
        create_model("mlp_nano", classifier="hyperbolik")


def test_a_hyperbolic_head_is_a_keyword_of_every_model():
    model = create_model("vit_nano", classifier={"name": "hyperbolic", "clip": 2.0})
    assert isinstance(model.head, PoincareMLR)
    assert model.recipe == ("vit_nano", {"classifier": {"name": "hyperbolic", "clip": 2.0}})
    assert use_hyperbolic_head(model).recipe == ("vit_nano", {"classifier": "hyperbolic"})


def test_a_plain_head_by_use_head_comes_back(tmp_path):
    model = use_hyperbolic_head(build("mlp_nano"))
    model.use_head(nn.Linear)
    assert model.recipe == ("mlp_nano", {})
    came_back(trained(model), "mlp_nano", tmp_path)
    came_back(_replaced(model), "mlp_nano", tmp_path)  # by one of the same kind


# What no recipe rebuilds.


def _set(place, value):
    def change(model):
        path, _, name = place.rpartition(".")
        setattr(model.get_submodule(path), name, value)

    return change


def _spectral(model):
    torch.nn.utils.parametrizations.spectral_norm(model.trunk.branches[0][0])


def _pruned(model):
    from torch.nn.utils.prune import l1_unstructured

    l1_unstructured(model.trunk.branches[0][0], "weight", 0.5)


def _factored(model):
    return factorize(model).model


def _without_a_norm(model):
    model.trunk.norms[0] = nn.Identity()


def _longer(model):
    model.trunk.branches.append(nn.Identity())


REFUSED = {
    "head": (_set("head", nn.Linear(32, 7)), "head.out_features is 7 where the recipe has 10"),
    "deep head": (_set("head", nn.Sequential(nn.Linear(32, 10))), "head is a Sequential where"),
    "use_head": (lambda m: m.use_head(functools.partial(nn.Linear, bias=False)), "head.bias is no"),
    "num_classes": (_set("num_classes", 3), "num_classes is 3 where the recipe has 10"),
    "dropout": (_set("trunk.branches.0.2.p", 0.5), "trunk.branches.0.2.p is 0.5 where"),
    "drop path": (_set("trunk.drop_path", (0.0, 0.3)), r"trunk.drop_path is \[0.0, 0.3\] where"),
    "epsilon": (_set("norm.eps", 0.1), "norm.eps is 0.1 where the recipe has 1e-05"),
    "bias": (_set("norm.bias", None), "norm.bias is no tensor where the recipe has a parameter"),
    "norm": (_without_a_norm, "trunk.norms.0 is a Identity where the recipe has a LayerNorm"),
    "longer": (_longer, "trunk.branches.2 is a Identity, which the recipe does not have"),
    "extra": (lambda m: m.add_module("probe", nn.Linear(3, 3)), "probe is a Linear, which the rec"),
    "parameter": (lambda m: m.register_parameter("t", nn.Parameter(torch.ones(3))), "t is a param"),
    "buffer": (lambda m: m.register_buffer("t", torch.ones(3)), r"t is a buffer of shape \(3,\)"),
    "spectral norm": (_spectral, "trunk.branches.0.0 is a ParametrizedLinear where the recipe"),
    "pruning": (_pruned, "trunk.branches.0.0.weight"),
    "compiled": (torch.compile, "the model is compiled: save what was given to torch.compile"),
    "meta": (lambda m: m.to("meta"), "stem.weight is on the meta device"),
    "fused": (fuse_parallel, "fuse_parallel made its weights; save what was fused"),
    "plain layers": (lambda m: plain_layers(_compressed(m)), "plain_layers exchanged its factors"),
    "factorized": (_factored, r"apply_lowrank\(model, …\)"),
    "method": (
        lambda m: reparametrize(m, make_method("maestro")) and None,
        r"apply_lowrank\(model, …\)",
    ),
    "a user's residual": (
        lambda m: with_residual(m, type("Mine", (Scaled,), {}), allow_change=True),
        "not a registered mechanism",
    ),
    "a user's residual in parallel": (
        lambda m: to_parallel(
            build("mlp_nano", residual=lambda *given, **k: Scaled(*given, **k)), 2
        ),
        "to_parallel grouped the branches of a residual without a name",
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_the_recipe_does_not_rebuild_is_refused_by_name(change, tmp_path):
    function, message = REFUSED[change]
    model = build("mlp_nano")
    made = function(model)
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=message):
        save_model(made if isinstance(made, nn.Module) else model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_head_that_is_no_longer_tied_is_refused(tmp_path):
    model = build("gpt_nano")
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    with pytest.raises(ValueError, match="head.weight is no longer the same tensor as embedding"):
        save_model(model, tmp_path)
    model = build("mlp_nano", depth=2)
    model.trunk.norms[1].weight = model.trunk.norms[0].weight
    with pytest.raises(ValueError, match="norms.1.weight is now the same tensor as trunk.norms.0"):
        save_model(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_a_mode_or_a_training_aid_is_no_structure(tmp_path):
    model = build("vit_nano", residual="block_attnres").eval()
    model.set_grad_checkpointing()
    model.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    model.default_cfg["mean"] = (0.1,)
    model.note = object()
    came_back(model, "vit_nano", tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_model_has_run_on_is_no_structure(name, tmp_path):
    model = trained(build(name)).train()
    model(example(name))
    came_back(model, name, tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_saving_builds_the_same_structure_of_every_model(name):
    from archzoo.zoo.share.save_load import _checked_config

    if name not in SMALL:
        pytest.skip("too large to build here")
    model = build(name)
    assert _checked_config(model) == {"name": name, "options": dict(model.recipe.options)}


def test_a_builder_that_looks_at_numbers_is_built_for_real(tmp_path, monkeypatch):
    from archzoo.zoo.backbones.mlp import MLP
    from archzoo.zoo.models import models, register_model

    monkeypatch.setattr(models, "_entries", dict(models._entries))

    @register_model(source="a test", kind="features", extends=MLP)
    def looks_at_numbers(**options):
        """A network that is scaled by what it starts from."""
        model = MLP(**options)
        model.gain = model.stem.weight.norm().item() > 0
        return model

    came_back(trained(build("looks_at_numbers")), "looks_at_numbers", tmp_path)


# Other classes, other channels.


@pytest.mark.parametrize("name", [name for name in CLASSES if name in HEADED])
def test_other_classes_leave_the_head_fresh_and_say_so(name, tmp_path, caplog):
    model = trained(build(name))
    save_model(model, tmp_path)
    with caplog.at_level(logging.WARNING, "archzoo.zoo"):
        loaded = create_model(f"local-dir:{tmp_path}", num_classes=7).eval()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: head is fresh, because num_classes changed"
    ]
    x = example(name)
    torch.testing.assert_close(
        loaded.forward_features(x),  # a head of sequences pools what one of tokens does not
        model.eval().forward_features(x),
        rtol=0.0,
        atol=0.0,
    )
    assert loaded(x).shape[-1] == 7 and loaded.recipe.options["num_classes"] == 7
    came_back(loaded, name, tmp_path / "again")


@pytest.mark.parametrize("name", ["mlp_nano", "gpt_nano", "poincare_mlp_nano"])
def test_no_classes_leave_the_features_and_the_same_classes_leave_all(name, tmp_path, caplog):
    model = trained(build(name)).eval()
    save_model(model, tmp_path)
    x = example(name)
    bare = create_model(f"local-dir:{tmp_path}", num_classes=0).eval()
    expected = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(bare(x), expected, rtol=0.0, atol=0.0)
    same = create_model(
        f"local-dir:{tmp_path}", num_classes=model_info(name).options["num_classes"].default
    )
    torch.testing.assert_close(same.eval()(x), model(x), rtol=0.0, atol=0.0)
    assert not caplog.records


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    "name", [name for name in CLASSES if "in_chans" in model_info(name).options]
)
def test_other_channels_adapt_the_first_convolution_or_leave_it_fresh(
    name, channels, tmp_path, caplog
):
    before = model_info(name).options["in_chans"].default
    model = trained(build(name)).eval()
    save_model(model, tmp_path)
    loaded = create_model(f"local-dir:{tmp_path}", in_chans=channels).eval()
    stem = model.default_cfg["first_conv"]
    plain = type(model.get_submodule(stem)) is nn.Conv2d
    x = example(name, in_chans=1)
    if channels == before or plain:
        assert not caplog.records
    if plain and (channels == 1 or channels % before == 0):  # gray is seen as it was
        gray = [one.expand(-1, n, -1, -1) for one, n in ((x, before), (x, channels))]
        torch.testing.assert_close(loaded(gray[1]), model(gray[0]), rtol=1e-3, atol=1e-4)
    if channels != before and not plain:
        message = f"{tmp_path}: {stem} is fresh, because in_chans changed"
        assert [record.getMessage() for record in caplog.records] == [message]
    mine, theirs = loaded.state_dict(), model.state_dict()
    differ = {key for key in theirs if not torch.equal(mine[key], theirs[key])}
    assert bool(differ) == (channels != before)
    assert all(key.startswith(f"{stem}.") for key in differ)
    came_back(loaded, name, tmp_path / "again")


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8])
def test_input_convolutions_are_adapted_as_timm_does(channels):
    from timm.models import adapt_input_conv as theirs

    weight = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(adapt_input_conv(weight, channels), theirs(channels, weight))


def test_other_classes_of_a_changed_model(tmp_path, caplog):
    model = create_model("vit_nano", residual="attnres", lowrank="low_rank")
    trained(use_hyperbolic_head(model, learned_curvature=True, clip=None))
    save_model(model, tmp_path)
    loaded = create_model(f"local-dir:{tmp_path}", num_classes=3, in_chans=3)
    assert isinstance(loaded.head, PoincareMLR) and loaded(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert len(caplog.records) == 1
    came_back(loaded, "vit_nano", tmp_path / "again")


def test_a_ball_that_the_trunk_shares_with_the_head_is_kept(tmp_path):
    model = trained(build("poincare_mlp_nano", learned_curvature=True)).eval()
    save_model(model, tmp_path)
    loaded = create_model(f"local-dir:{tmp_path}", num_classes=3).eval()
    x = example("poincare_mlp_nano")
    torch.testing.assert_close(
        loaded.forward_features(x), model.forward_features(x), rtol=0.0, atol=0.0
    )


def test_another_architecture_with_other_classes_is_still_refused(tmp_path):
    save_model(build("mlp_nano"), tmp_path)
    for options in ({"depth": 3}, {"width": 16}, {"residual": "attnres"}):
        with pytest.raises(ValueError, match="holds weights of another model"):
            create_model(f"local-dir:{tmp_path}", num_classes=3, **options)


def test_files_of_earlier_versions_are_read(tmp_path):
    model = trained(build("vit_nano", global_pool="avg", residual={"name": "attnres"}))
    save_model(model, tmp_path)
    old = {
        "name": "vit_nano",
        "options": {"global_pool": "avg", "residual": {"name": "attnres"}, "num_classes": 10},
    }
    (tmp_path / "config.json").write_text(json.dumps(old))
    loaded = create_model(f"local-dir:{tmp_path}")
    x = example("vit_nano")
    same(loaded.eval()(x), model.eval()(x))


# Models that timm built.


def vit(name="vit_tiny_patch16_224", **options):
    options = {"img_size": 32, "depth": 2, "num_classes": 7, "embed_dim": 48, **options}
    return timm.create_model(name, num_heads=2, **options)


def timm_comes_back(model, folder):
    loaded = create_model(f"local-dir:{save_model(model, folder)}")
    x = torch.randn(2, loaded.in_chans, *loaded.patch_embed.img_size)
    same(loaded.eval()(x), model.eval()(x))
    assert type(loaded) is type(model)
    return loaded


@pytest.mark.parametrize("residual", ["add", "block_attnres", "delta_cc", "mhc", "mobius"])
def test_a_converted_timm_model_comes_back(residual, tmp_path):
    model = changed(lambda model: with_residual(model, residual, allow_change=True), vit())
    timm_comes_back(trained(model), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"drop_rate": 0.1, "drop_path_rate": 0.2, "proj_drop_rate": 0.3, "attn_drop_rate": 0.4},
        {"global_pool": "avg", "num_classes": 0, "in_chans": 1},
        {"qk_norm": True, "reg_tokens": 2, "mlp_ratio": 2.0, "init_values": 0.1},
        {"name": "deit_tiny_patch16_224"},
    ],
    ids=str,
)
def test_a_converted_timm_model_comes_back_with_its_keywords(options, tmp_path):
    residual = functools.partial(BlockAttnRes, num_blocks=2)
    timm_comes_back(trained(with_residual(vit(**options), residual)), tmp_path)


def test_what_timm_changes_after_the_conversion_comes_back(tmp_path):
    model = trained(with_residual(vit(), "block_attnres"))
    model.reset_classifier(3, "avg")
    model.set_input_size((48, 48))
    loaded = timm_comes_back(model, tmp_path)
    assert loaded.num_classes == 3 and loaded.global_pool == "avg"


def test_a_converted_timm_model_takes_other_classes_and_channels(tmp_path, caplog):
    model = trained(with_residual(vit(), "attnres")).eval()
    save_model(model, tmp_path)
    loaded = create_model(f"local-dir:{tmp_path}", num_classes=3, in_chans=1).eval()
    assert [r.getMessage().split(": ")[1] for r in caplog.records] == [
        "head is fresh, because num_classes and in_chans changed"
    ]
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(
        loaded.forward_features(x),
        model.forward_features(x.expand(-1, 3, -1, -1)),
        rtol=1e-3,
        atol=1e-4,
    )
    with pytest.raises(ValueError, match="timm cannot build timm/vit_tiny_patch16_224"):
        create_model(f"local-dir:{tmp_path}", num_clases=3)


def test_a_timm_model_whose_name_or_keywords_are_unknown_is_refused(tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    options = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": 7}
    nameless = with_residual(VisionTransformer(**options), "attnres")
    with pytest.raises(ValueError, match="only a model made by create_model can be saved"):
        save_model(nameless, tmp_path / "folder")
    with pytest.raises(ValueError, match="only a model made by create_model can be saved"):
        save_model(vit(), tmp_path / "folder")
    odd = with_residual(vit(), "attnres")
    odd.head = nn.Sequential(nn.Linear(48, 7))
    with pytest.raises(ValueError, match="head is a Sequential where the recipe has a Linear"):
        save_model(odd, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
