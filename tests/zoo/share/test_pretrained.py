"""Pretrained weights come by name, are what their cards say, and fit what is asked for."""

import dataclasses
import json
import shlex

import pytest
import torch
from archzoo.zoo import create_model, list_models
from archzoo.zoo.share import pretrained
from archzoo.zoo.share.pretrained import (
    SHIPPED,
    card_of,
    cards_of,
    config_digest,
    register_weights,
    shipped_folder,
    weights_cards,
)
from archzoo.zoo.share.save_load import CONFIG, WEIGHTS, save_model
from archzoo.zoo.share.weights_card import CARD, WeightsCard, read_card, write_card

from ..small_models import build, example, trained

CARDS = {name: card for name, card in weights_cards().items() if card.hub is None}
ONE = "vit_nano_block_attnres"
ONE_MB, ALL_MB = 1_000_000, 8_000_000


def same(one, two, but=()):
    mine, theirs = one.state_dict(), two.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine:
        if not key.startswith(tuple(but)):
            assert torch.equal(mine[key], theirs[key]), key


# What ships.


def test_each_family_has_weights():
    sources = {source for card in CARDS.values() for source in card.sources}
    families = {
        "AttnRes": "arXiv:2603.15031", "DDL": "arXiv:2601.00417", "Poincaré": "arXiv:2303.14027",
        "embeddings": "arXiv:1705.08039", "LDLᵀ": "arXiv:2512.05915",
        "Maestro": "arXiv:2308.14929", "SLTrain": "arXiv:2406.02214",
    }  # fmt: skip
    assert {name for name, source in families.items() if source not in sources} == set()
    assert {card.data["name"] for card in CARDS.values()} >= {
        "digits", "fashion_mnist", "tabular", "bytes", "wordnet"
    }  # fmt: skip


def test_what_ships_is_small():
    sizes = {name: (shipped_folder(card) / WEIGHTS).stat().st_size for name, card in CARDS.items()}
    assert {name: size for name, size in sizes.items() if size > ONE_MB} == {}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= ALL_MB


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_of_the_files_beside_it(name):
    card = CARDS[name]
    folder = shipped_folder(card)
    assert sorted(path.name for path in folder.iterdir()) == sorted((CARD, CONFIG, WEIGHTS))
    assert read_card(folder / CARD) == card
    assert config_digest(folder) == card.sha256
    config = json.loads((folder / CONFIG).read_text())
    assert config["name"] == card.model in list_models()
    model = create_model(card.model, pretrained=card.tag)
    assert sum(p.numel() for p in model.parameters()) == card.parameters


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_it_takes_to_make_the_weights_again(name):
    card = CARDS[name]
    assert card.command.startswith("archzoo train") and "/" not in card.command
    assert f"seed={card.seed}" in card.command
    assert str(card.seed) in card.seeds and card.metrics[card.headline] > 0
    assert card.licence and card.data_licence and card.sources and card.data_digest


def test_of_several_weights_of_a_model_one_is_the_first():
    for model in {card.model for card in CARDS.values()}:
        own = cards_of(model)
        assert sum(card.default for card in own) == 1 or len(own) == 1
        assert card_of(model) == own[0] == card_of(model, own[0].tag)


# What comes back.


def test_weights_come_by_name_by_tag_and_by_address():
    model = create_model(ONE, pretrained=True)
    same(model, create_model(ONE, pretrained="digits"))
    same(model, create_model(f"pretrained:{ONE}"))
    same(model, create_model(f"pretrained:{ONE}/digits"))
    assert model.recipe == create_model(ONE).recipe
    assert model.conventions["label_names"] == [str(digit) for digit in range(10)]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    fresh = create_model(ONE)
    assert not torch.equal(fresh.norm.weight, model.norm.weight)


@pytest.mark.parametrize("name", CARDS)
def test_all_of_a_model_is_in_single_precision(name):
    model = create_model(f"pretrained:{name}")
    tensors = [t for t in model.state_dict().values() if t.is_floating_point()]
    assert torch.float16 not in {t.dtype for t in tensors}
    assert all(t.isfinite().all() for t in tensors)


def test_a_head_and_a_first_layer_of_another_size_start_fresh_or_adapt():
    model = create_model(ONE, pretrained=True)
    other = create_model(ONE, pretrained=True, num_classes=3, in_chans=3)
    same(other.trunk, model.trunk)
    assert other.head.out_features == 3
    torch.testing.assert_close(
        other.patch_embed.proj.weight.sum(1, keepdim=True), model.patch_embed.proj.weight
    )
    assert "label_names" not in other.conventions and "mean" not in other.conventions


def test_a_rate_of_dropout_may_change_and_what_the_weights_have_may_be_said():
    model = create_model(ONE, pretrained=True, drop_rate=0.1, drop_path_rate=0.2, width=64)
    same(model, create_model(ONE, pretrained=True))
    assert model.head_drop.p == 0.1


def test_pretrained_weights_are_saved_as_any_others(tmp_path):
    model = create_model(ONE, pretrained=True)
    same(create_model(f"local-dir:{save_model(model, tmp_path)}"), model)


# What is refused.


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("vit_base", {}, "vit_base has no pretrained weights; use pretrained=False.* vit_nano,"),
        ("vit_nan", {}, "no model named 'vit_nan'; did you mean 'vit_nano'"),
        (ONE, {"pretrained": "digit"}, "no pretrained weights 'digit'; did you mean 'digits'"),
        (ONE, {"width": 32}, "the weights .*/digits are of another model than width asks for"),
        (ONE, {"residual": "attnres", "depth": 3}, "than depth, residual ask for: .*leave them"),
        (ONE, {"dept": 3}, "takes no keyword 'dept'"),
        (ONE, {"lowrank": "low_rank"}, "of another model than lowrank asks for"),
        (f"pretrained:{ONE}", {}, "names its weights itself; leave pretrained=True out"),
        ("local-dir:somewhere", {}, "names its weights itself; leave pretrained=True out"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(model, options, message):
    with pytest.raises(ValueError, match=message) as error:
        create_model(model, **{"pretrained": True, **options})
    assert "\n" not in str(error.value)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package that ships one set of weights."""
    card = WeightsCard(model="mlp_nano", tag="mine", metrics={"accuracy": 0.5})
    folder = save_model(trained(build("mlp_nano")), tmp_path / "mlp_nano-mine")
    write_card(dataclasses.replace(card, sha256=config_digest(folder)), folder / CARD)
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    monkeypatch.setattr(pretrained, "_registered", {})
    pretrained._shipped.cache_clear()
    yield folder
    pretrained._shipped.cache_clear()


@pytest.mark.parametrize("file", [CARD, CONFIG, WEIGHTS])
def test_a_file_that_is_not_what_was_written_is_refused(shipped, file):
    create_model("mlp_nano", pretrained=True)
    content = bytearray((shipped / file).read_bytes())
    place = content.index(b"mlp_nano") if file != WEIGHTS else len(content) - 3
    content[place] ^= 1
    (shipped / file).write_bytes(content)
    pretrained._shipped.cache_clear()
    with pytest.raises(ValueError, match=f"{file}|its digest is not the card's"):
        create_model("mlp_nano", pretrained=True)


# On a hub, without a network.


def test_weights_on_a_hub_come_by_the_same_name(shipped, monkeypatch):
    model = trained(build("mlp_nano", depth=3), seed=1)
    there, asked = save_model(model, shipped.parent / "hub"), []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options["revision"]))
        return str(there)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    card = WeightsCard("mlp_nano", "large", hub="someone/large@v1", sha256=config_digest(there))
    register_weights(card)
    same(create_model("mlp_nano", pretrained="large"), model)
    assert asked == [("someone/large", "v1")]
    assert create_model("mlp_nano", pretrained="large", num_classes=3).num_classes == 3
    save_model(trained(build("mlp_nano", depth=3), seed=2), there)
    with pytest.raises(ValueError, match="does not hold the weights of mlp_nano/large"):
        create_model("mlp_nano", pretrained="large")
    for wrong in (card, WeightsCard("mlp_nano", "timm", hub="a/b", sha256="c")):
        with pytest.raises(ValueError, match="is taken; choose another tag"):
            register_weights(wrong)
    with pytest.raises(ValueError, match="the card of weights on a hub needs sha256="):
        register_weights(WeightsCard("mlp_nano", "new", hub="a/b"))
    with pytest.raises(ValueError, match="no model named 'mlp_nana'"):
        register_weights(WeightsCard("mlp_nana", "new", hub="a/b", sha256="c"))


def test_timm_gives_the_same_weights():
    import timm
    from archzoo.zoo import register_with_timm

    register_with_timm()
    x = example(ONE)
    ours = create_model(ONE, pretrained=True).eval()
    for name in (ONE, f"{ONE}.digits"):
        theirs = timm.create_model(name, pretrained=True).eval()
        torch.testing.assert_close(theirs(x), ours(x), rtol=0.0, atol=0.0)
        assert theirs.default_cfg["mean"] == ours.default_cfg["mean"]
    assert timm.create_model(ONE, pretrained=True, num_classes=3, in_chans=3).num_classes == 3


def test_every_recipe_of_the_training_script_has_weights_of_its_command():
    import yaml

    path = SHIPPED.parents[1] / "benchmarks" / "train_pretrained.yaml"
    recipes = yaml.safe_load(path.read_text())
    assert recipes.keys() == CARDS.keys()
    for name, recipe in recipes.items():
        card = CARDS[name]
        assert {*map(str, recipe["seeds"])} == card.seeds.keys()
        assert bool(recipe.get("default")) == card.default
        assert all(shlex.quote(word) in card.command for word in recipe["train"]), name
