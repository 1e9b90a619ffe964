"""A builder's signature is its schema; the registry checks it and nothing repeats it."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from archzoo.zoo import create_model, list_models, model_info, register_model, residuals
from archzoo.zoo.backbones.variants import VARIANTS
from archzoo.zoo.registry import Registry, nearest, type_name

from .small_models import ALL


def animals() -> Registry:
    registry = Registry("animal")

    @registry.register(kind="mammal", source="page 1", habitat="sea")
    def whale(
        name: str = "moby",
        legs: int = 0,
        weight: float = 1e5,
        colour: Literal["white", "grey"] = "white",
        calves: tuple[int, ...] = (1, 2),
        tagged: bool = False,
        owner: str | None = None,
        notes: str | Mapping[str, Any] = "none",
        anything=None,
    ):
        """A large animal.

        It swims.
        """
        return locals()

    @registry.register(kind="mammal", extends=whale)
    def calf(weight: float = 1e3, *, age: int = 1, **options: Any):
        """A small whale."""
        return {"age": age, **whale(weight=weight, **options)}

    @registry.register(kind="mammal", extends=calf)
    def newborn(age: int = 0, **options: Any):
        """A smaller one."""
        return calf(age=age, **options)

    return registry


def test_an_entry_tells_what_was_registered():
    entry = animals()["whale"]
    assert (entry.name, entry.kind, entry.source) == ("whale", "mammal", "page 1")
    assert entry.about == {"habitat": "sea"}
    assert entry.summary == "A large animal."
    option = entry.options["weight"]
    assert (option.name, option.type, option.default) == ("weight", float, 1e5)
    assert entry.options["anything"].type is Any


def test_the_options_cannot_be_changed():
    with pytest.raises(TypeError):
        animals()["whale"].options["weight"] = None


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="no animal named 'whael'; did you mean 'whale'"):
        animals()["whael"]
    with pytest.raises(ValueError, match="no animal named 'xyzzy'; known: calf, newborn, whale"):
        animals()["xyzzy"]


def test_an_unknown_keyword_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="whale takes no keyword 'leg'; did you mean 'legs'"):
        animals().build("whale", leg=4)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("name", 3),
        ("name", None),
        ("legs", 1.0),
        ("legs", True),
        ("legs", "4"),
        ("weight", "1"),
        ("weight", True),
        ("weight", None),
        ("colour", "red"),
        ("calves", 1),
        ("calves", ("a",)),
        ("calves", (1, 2.5)),
        ("calves", "12"),
        ("tagged", 1),
        ("tagged", "yes"),
        ("owner", 0),
        ("notes", 1),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(keyword, value):
    with pytest.raises(ValueError, match=f"whale: {keyword} must be .*, got "):
        animals().build("whale", **{keyword: value})


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("name", ""),
        ("legs", -4),
        ("weight", 2),
        ("weight", 2.5),
        ("colour", "grey"),
        ("calves", ()),
        ("calves", [3, 4, 5]),
        ("tagged", True),
        ("owner", None),
        ("owner", "ahab"),
        ("notes", "none"),
        ("notes", {"a": 1}),
        ("anything", object()),
    ],
)
def test_a_value_of_the_type_reaches_the_builder(keyword, value):
    assert animals().build("whale", **{keyword: value})[keyword] is value


def test_a_taken_name_is_refused_and_keeps_its_owner():
    registry = animals()
    first = registry["whale"]
    with pytest.raises(ValueError, match="the animal name 'whale' is taken by .*test_registry"):
        registry.register(kind="fish", name="whale")(lambda: None)
    assert registry["whale"] is first


def test_a_keyword_without_a_default_is_refused():
    def cat(lives: int, name: str = "tom"):
        return lives, name

    registry = Registry("animal")
    with pytest.raises(ValueError, match="cat: the keyword 'lives' needs a default"):
        registry.register(kind="mammal")(cat)
    assert "cat" not in registry
    registry.register(kind="mammal", given=("lives",))(cat)
    assert list(registry["cat"].options) == ["name"]
    assert registry.build("cat", 9) == (9, "tom")


def test_what_extends_another_shows_its_own_keywords_first_and_then_the_rest():
    registry = animals()
    whale, calf, newborn = (registry[name] for name in ("whale", "calf", "newborn"))
    assert list(calf.options)[:2] == ["weight", "age"]
    assert set(calf.options) == {*whale.options, "age"}
    assert list(newborn.options)[:2] == ["age", "weight"]
    assert set(newborn.options) == set(calf.options)
    assert [o.options["weight"].default for o in (whale, calf, newborn)] == [1e5, 1e3, 1e3]
    for entry in (whale, calf, newborn):
        parameters = inspect.signature(entry.build).parameters
        assert list(parameters) == list(entry.options)
        assert all(p.default == entry.options[key].default for key, p in parameters.items())
    assert registry.build("newborn", legs=2)["weight"] == 1e3
    assert registry.build("newborn", weight=7.0, legs=2)["weight"] == 7.0


def test_a_keyword_may_be_called_name():
    assert animals().build("whale", name="key")["name"] == "key"


def test_names_are_in_natural_order_and_match_a_pattern():
    registry = Registry("net")
    for name in ("net10_a", "net9", "net", "net10", "other2", "net_b"):
        registry.register(kind="features", name=name)(lambda: None)
    assert registry.names() == ["net", "net9", "net10", "net10_a", "net_b", "other2"]
    assert registry.names("net?*") == ["net9", "net10", "net10_a", "net_b"]
    assert registry.names("*[0-9]") == ["net9", "net10", "other2"]
    assert registry.names("nothing") == []


def test_a_suggestion_is_the_tail_of_a_sentence():
    assert nearest("ads", ["add", "rezero"]) == "; did you mean 'add'?"
    assert nearest("b", ["b1", "b2"]) == "; did you mean 'b2' or 'b1'?"
    assert nearest("q", ["b10", "b9"]) == "; known: b9, b10"
    told = nearest("q", [f"b{i}" for i in range(23)])
    assert told.startswith("; known: b0, b1, ") and told.endswith(", b19 and 3 more")


def test_a_type_is_written_as_in_a_signature():
    assert type_name(int) == "int"
    assert type_name(Literal["a", "b"]) == "Literal['a', 'b']"
    assert type_name(str | None) == "str | None"


# The registries of the zoo.


def test_models_are_listed_in_natural_order_by_pattern():
    resnets = list_models("resnet[0-9]*")
    assert resnets.index("resnet20") < resnets.index("resnet56") < resnets.index("resnet110")
    assert list_models("gpt_nano*") == ["gpt_nano", "gpt_nano_block_attnres"]
    assert all(
        name.startswith("vit_") and "attnres" in name for name in list_models("vit_*attnres")
    )
    assert len(list_models("vit_*attnres")) >= 4


def test_a_registered_name_is_never_overwritten():
    build = model_info("mlp_nano").build

    def mlp_nano():
        """Another."""

    with pytest.raises(
        ValueError, match="the model name 'mlp_nano' is taken by archzoo.zoo.backbones.mlp"
    ):
        register_model(source="", kind="features")(mlp_nano)
    assert model_info("mlp_nano").build is build


def test_create_model_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="no model named 'vit_tinny'; did you mean 'vit_tiny'"):
        create_model("vit_tinny")
    with pytest.raises(ValueError, match="mlp_nano takes no keyword 'dept'; did you mean 'depth'"):
        create_model("mlp_nano", dept=4)
    with pytest.raises(ValueError, match="mlp_nano: depth must be int, got 'four'"):
        create_model("mlp_nano", depth="four")
    with pytest.raises(ValueError, match="mlp_nano: residual must be .*got 5"):
        create_model("mlp_nano", residual=5)


@pytest.mark.parametrize("name", ALL)
def test_every_model_has_a_name_a_source_a_summary_and_a_schema(name):
    entry = model_info(name)
    assert entry.name == name == entry.build.__name__
    assert entry.source.strip()  # a paper, a page or a licence: not every idea has an arXiv number
    assert entry.kind in ("image", "features", "tokens", "sequence", "nodes", "graph")
    assert entry.about.keys() == {"geometry", "weights"}
    assert len(entry.summary) > 10 and entry.summary.endswith(".")
    wanted = {"num_classes", "residual", "drop_path_rate"}
    if entry.kind == "nodes":
        wanted = {"num_nodes"}
    elif entry.about["weights"] == "Lipschitz by construction":  # the skip is the block's own
        wanted = {"num_classes", "lipschitz", "block"}
    assert wanted <= entry.options.keys()
    assert "options" not in entry.options
    entry.check({key: option.default for key, option in entry.options.items()})


@pytest.mark.parametrize(("name", "base", "residual"), VARIANTS, ids=[v[0] for v in VARIANTS])
def test_a_variant_is_its_model_with_another_residual(name, base, residual):
    entry, other = model_info(name), model_info(base.__name__)
    own = entry.options["residual"]
    assert own.default == residual and own.type == other.options["residual"].type
    assert {**entry.options, "residual": other.options["residual"]} == dict(other.options)
    assert (entry.kind, entry.about) == (other.kind, other.about)
    assert entry.source == residuals[residual].source and name in entry.build.__qualname__


@pytest.mark.parametrize("source", ["Nesterov (1983)", "https://example.org/page", "CC BY 4.0"])
def test_a_source_need_not_be_an_arxiv_number(source):
    registry = Registry("animal")

    @registry.register(source=source)
    def cat(lives: int = 9):
        """A cat."""

    assert registry["cat"].source == source and registry["cat"].kind == "animal"


@pytest.mark.parametrize("name", residuals.names())
def test_every_residual_has_a_source_a_summary_and_a_schema(name):
    entry = residuals[name]
    assert entry.source.strip()  # a paper, a page or a licence: not every idea has an arXiv number
    assert len(entry.summary) > 10 and entry.summary.endswith(".")
    assert not {"width", "sites", "channel_dim"} & entry.options.keys()
    entry.check({key: option.default for key, option in entry.options.items()})
