"""Units that move together: every layer says so, and the function stays what it is."""

import copy
import re
from typing import Any

import pytest
import torch
from archzoo.layers.residual import AttnRes, Residual, Site
from archzoo.layers.units import Bond, Units, UnitTrace
from archzoo.zoo import create_model, list_models, model_info
from archzoo.zoo.matching import permutation_spec, permute
from torch import nn

from ...tiers import tiered
from ..small_models import ALL, KINDS, TINY, build, example, fitting, on_meta, trained

REFUSED = {"aol_*", "ldlt_*", "sandwich_*", "sll_*"}
LIPSCHITZ = {name for pattern in REFUSED for name in list_models(pattern)}
PERMUTED = [name for name in KINDS if name not in LIPSCHITZ]
OPTIONS = [
    {"name": "attnres", "heads": 4, "input_dependent_query": True},
    {"name": "delta", "gate_hidden": 3, "parameterisation": "repo"},
    {"name": "delta", "parameterisation": "v1"},
    {"name": "delta", "value_channels": 3, "cc_form": "repo"},
    {"name": "highway", "gate": "scalar"},
    {"name": "depth_swa", "mode": "replace"},
]


def same_function(model: nn.Module, x: torch.Tensor, seed: int = 1) -> float:
    """How far outputs move, over the largest of them, when units change places."""
    spec = permutation_spec(model.eval())
    moved = permute(copy.deepcopy(model), spec, spec.random(seed))
    with torch.no_grad():
        before, after = model(x), moved(x)
    return float((after - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("name", [name for name in ALL if name not in LIPSCHITZ])
def test_every_axis_of_every_parameter_is_covered_once(name):
    model = on_meta(name)
    spec = permutation_spec(model)
    for key, parameter in model.named_parameters():
        sizes = [[segment.size for segment in axis] for axis in spec.axes[key]]
        assert [sum(axis) for axis in sizes] == list(parameter.shape), key
    held = {s.group for axes in spec.axes.values() for axis in axes for s in axis} - {None}
    assert held == set(spec.groups)


@pytest.mark.parametrize("name", sorted(LIPSCHITZ))
def test_layers_whose_channels_are_tied_refuse_by_name(name):
    with pytest.raises(ValueError, match=r"stem.* is a .*, and its weights are a map of all"):
        permutation_spec(on_meta(name))


@pytest.mark.parametrize("name", PERMUTED)
def test_a_permuted_network_is_the_same_function(name):
    model = trained(build(name)).double()
    x = example(name, dtype=torch.float64)
    assert same_function(model, x) <= 1e-12


@pytest.mark.parametrize(
    ("name", "residual"),
    tiered(
        fitting(["vit_nano", "resnet_nano", "gpt_nano"]),
        lambda name, residual: name == "vit_nano",
    ),
)
def test_every_residual_is_the_same_function_on_permuted_channels(name, residual):
    model = trained(build(name, residual=residual, **TINY[name])).double()
    mechanism = next(part for part in model.modules() if isinstance(part, Residual))
    reason = getattr(mechanism, "no_units", None)
    if reason is not None:
        with pytest.raises(ValueError, match=re.escape(reason)):
            permutation_spec(model)
        return
    x = example(name, dtype=torch.float64, **TINY[name])
    assert same_function(model, x) <= 1e-12


@pytest.mark.parametrize("residual", OPTIONS, ids=str)
def test_options_of_a_residual_move_their_own_parameters(residual):
    model = trained(build("vit_nano", residual=residual, **TINY["vit_nano"])).double()
    x = example("vit_nano", dtype=torch.float64, **TINY["vit_nano"])
    assert same_function(model, x) <= 1e-12


def test_the_stream_is_one_group_and_every_hidden_width_its_own():
    spec = permutation_spec(create_model("mlp_tiny"))
    assert set(spec.groups) == {"stem", *(f"trunk.branches.{i}.0" for i in range(4))}
    written = [spec.axes[f"trunk.branches.{i}.3.weight"][0][0].group for i in range(4)]
    assert written == ["stem"] * 4


def test_heads_move_as_a_whole_and_values_inside_their_head_too():
    spec = permutation_spec(create_model("vit_nano"))
    heads = spec.groups["trunk.branches.0"]
    assert (heads.blocks, [tuple(part) for part in heads.parts]) == (
        4,
        [(16, True), (16, True), (1, False)],
    )
    query, key, value = spec.axes["trunk.branches.0.qkv.weight"][0]
    assert query == key and query.part == 0 and value.part == 1
    angles = permutation_spec(create_model("gpt_nano")).groups["trunk.branches.0"]
    assert [part.free for part in angles.parts] == [False, True, False]


def test_a_table_that_is_its_own_head_belongs_to_the_stream_on_both_sides():
    spec = permutation_spec(create_model("gpt_nano"))
    (words,), (stream,) = spec.axes["embedding.weight"]
    assert words.group is None and stream.group == spec.axes["norm.weight"][0][0].group


def test_stages_of_a_cnn_have_streams_of_their_own():
    spec = permutation_spec(create_model("resnet_nano"))
    (out,), (into,) = spec.axes["shortcuts.1.1.weight"][:2]
    assert out.group != into.group and into.group == "stem.0"
    assert spec.axes["stages.1.branches.0.0.weight"][1][0].group == into.group
    assert spec.axes["stages.1.branches.0.2.weight"][0][0].group == out.group


def test_channels_with_a_softmax_of_their_own_stay_together():
    residual = {"name": "attnres", "heads": 4}
    spec = permutation_spec(create_model("vit_nano", residual=residual, width=16, num_heads=2))
    blocks = [group for group in spec.groups.values() if group.blocks == 4]
    assert [[tuple(part) for part in group.parts] for group in blocks] == [[(4, True)]]


def test_inputs_and_logits_keep_their_places():
    spec = permutation_spec(create_model("mlp_nano"))
    assert [s.group for s in spec.axes["stem.weight"][1]] == [None]
    assert [s.group for s in spec.axes["head.weight"][0]] == [None]
    bare = permutation_spec(create_model("mlp_nano", num_classes=0))
    assert "stem" not in bare.groups  # features are outputs


def test_an_inverse_undoes_a_permutation():
    model = create_model("vit_nano", residual="mhc")
    before = copy.deepcopy(model.state_dict())
    spec = permutation_spec(model)
    drawn = spec.random(3)
    permute(permute(model, spec, drawn), spec, spec.inverse(drawn))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Silent(nn.Module):
    """A layer that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


class Skip(nn.Sequential):
    """A chain beside which its input goes."""

    def forward(self, x):
        return x + super().forward(x)


class Masked(nn.Linear):
    """A layer of torch that computes something else."""

    def forward(self, x):
        return super().forward(x) * torch.arange(self.out_features)


class Scales(nn.Module):
    """A layer with a table that no parameter is."""

    unit_axes = {}

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scales", torch.arange(8.0))


class Returns(nn.Module):
    """A network that returns something of two layers."""

    def __init__(self, gathered) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(4, 8)
        self.gathered = gathered

    def forward(self, x):
        return self.first(x), self.second(x)

    def follow_units(self, trace, x):
        return self.gathered(trace.through(self.first, x), trace.through(self.second, x))


CASES = {
    "a chain with a forward pass of its own": (Skip(nn.Linear(4, 4)), "Skip does not say"),
    "a layer of torch with one": (Masked(4, 4), "Masked does not say"),
    "a buffer without a word": (nn.Sequential(Scales()), "does not say whose .* its scales"),
    "outputs that are no units": (Returns(lambda a, b: "both"), "must return units or None"),
    "a layer without a word": (Silent(), "Silent does not say what becomes of its units"),
    "a weight made of others": (
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        "computed from other parameters; merge",
    ),
    "sorted channels": (create_model("aol_mlp_nano").blocks, "sort"),
    "groups": (nn.Conv2d(4, 4, 1, groups=2), "groups=2"),
    "gates of halves": (nn.Sequential(nn.Linear(4, 4), nn.GLU()), "GLU does not say"),
    "pixels as features": (
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 2)),
        "spreads its channels",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_permuted_is_refused_by_name(case):
    module, word = CASES[case]
    with pytest.raises(ValueError, match=word):
        permutation_spec(module)


@pytest.mark.parametrize("gathered", [lambda a, b: (a, b), lambda a, b: {"a": [a], "b": b}])
def test_all_outputs_of_a_network_keep_their_places(gathered):
    spec = permutation_spec(Returns(gathered))
    assert spec.groups == {}


def stretched(drawn):
    """Permutations in which one unit stands twice."""
    return {name: tuple(index * 0 for index in parts) for name, parts in drawn.items()}


def heads_parted(drawn):
    """Permutations in which units leave their heads."""
    return {name: tuple(index.roll(1) for index in parts) for name, parts in drawn.items()}


def one_group_less(drawn):
    return dict(list(drawn.items())[1:])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (stretched, "does not permute the Group"),
        (heads_parted, "does not permute the Group"),
        (one_group_less, "must be of all groups"),
    ],
)
def test_what_is_no_permutation_leaves_the_model_as_it_is(change, word):
    model = create_model("vit_nano")
    before, spec = copy.deepcopy(model.state_dict()), permutation_spec(model)
    with pytest.raises(ValueError, match=word):
        permute(model, spec, change(spec.random(1)))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_spec_of_another_model_is_refused():
    spec = permutation_spec(create_model("mlp_nano"))
    # One that is wrapped, as a compiled one is, has other names.
    for model in (create_model("mlp_nano", depth=3), nn.Sequential(create_model("mlp_nano"))):
        with pytest.raises(ValueError, match="spec is of another model"):
            permute(model, spec, spec.random(1))


def test_two_parameters_over_one_memory_are_refused():
    model = create_model("mlp_nano")
    spec = permutation_spec(model)
    branches: Any = model.trunk.branches
    branches[1][0].weight.data = branches[0][0].weight.data
    with pytest.raises(ValueError, match=r"branches.1.0.weight lies in the memory of trunk"):
        permute(model, spec, spec.random(1))


def test_factored_layers_ask_to_be_merged_first():
    model = create_model("mlp_nano", lowrank={"name": "low_rank", "rank": 0.5})
    with pytest.raises(ValueError, match="merge them first"):
        permutation_spec(model)


def test_a_residual_that_says_nothing_of_a_parameter_is_named():
    class Undeclared(AttnRes):
        unit_axes = {"query": (None, "stream")}

    model: Any = create_model("mlp_nano")
    model.trunk.residual = Undeclared(32, [Site("mlp", i) for i in range(2)])
    with pytest.raises(ValueError, match=r"trunk.residual: Undeclared .* its gain"):
        permutation_spec(model)


def test_units_that_are_added_must_be_as_many():
    with pytest.raises(ValueError, match="their numbers differ"):
        Units(3, "stem").join(Units(4, "branch"))


def test_units_of_two_kinds_of_blocks_are_not_added():
    first, second = Units(4, "a"), Units(4, "b")
    Bond(2, {first: True})
    Bond(4, {second: True})
    with pytest.raises(ValueError, match="bound to blocks of two layers"):
        first.join(second)


def test_depthwise_convolutions_move_with_their_channels():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    ).double()
    assert same_function(net, torch.randn(2, 2, 5, 5).double()) <= 1e-12


def test_every_registered_kind_is_permuted_or_refused_by_name():
    kinds = {model_info(name).kind for name in PERMUTED}
    assert kinds == {model_info(name).kind for name in ALL}
    assert isinstance(UnitTrace(create_model("mlp_nano")).fixed(), Units)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_permutation_and_its_inverse_are_exact_in_every_dtype_and_layout(dtype, layout):
    model = trained(build("resnet_nano", **TINY["resnet_nano"])).to(dtype)
    model = model.to(memory_format=layout)
    before = copy.deepcopy(model.state_dict())
    spec = permutation_spec(model)
    drawn = spec.random(3)
    permute(model, spec, drawn)
    moved = model.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in moved.items())
    assert all(value.stride() == before[key].stride() for key, value in moved.items())
    permute(model, spec, spec.inverse(drawn))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
