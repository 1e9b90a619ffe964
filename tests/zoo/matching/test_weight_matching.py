"""Weight matching: what was permuted is put back, and nothing is ever made worse."""

import copy
import itertools
from typing import Any

import pytest
import torch
from archzoo.zoo import create_model
from archzoo.zoo.matching import interpolate, match, permutation_spec, permute
from archzoo.zoo.matching.permutation_spec import Group, Part
from archzoo.zoo.matching.weight_matching import assign
from torch import Tensor, nn

from ..small_models import TINY, build, trained

MODELS = ["mlp_nano", "vit_nano", "gpt_nano", "resnet_nano", "poincare_resnet_nano"]


def small(name: str, seed: int = 0, **options) -> Any:
    return trained(build(name, seed, **TINY[name], **options), seed)


@pytest.mark.parametrize("name", MODELS)
def test_a_planted_permutation_is_recovered(name):
    a = small(name)
    spec = permutation_spec(a)
    planted = spec.random(5)
    b = permute(copy.deepcopy(a), spec, planted)
    found = match(a, b)
    back = permute(b, spec, found.permutations).state_dict()
    assert all(torch.equal(back[key], value) for key, value in a.state_dict().items())


def test_a_planted_permutation_of_a_plain_network_is_recovered_in_three_sweeps():
    torch.manual_seed(0)
    a = nn.Sequential(
        *(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    )
    spec = permutation_spec(a)
    planted = spec.random(0)
    found = match(a, permute(copy.deepcopy(a), spec, planted))
    assert found.sweeps <= 3
    for name, parts in spec.inverse(planted).items():
        assert torch.equal(found.permutations[name][0], parts[0])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_matching_never_loses(name, seed):
    found = match(small(name), small(name, 1), seed=seed)
    assert found.after >= found.before


@pytest.mark.parametrize("residual", ["highway", {"name": "attnres", "heads": 2}, "delta"])
def test_matching_never_loses_where_a_group_lies_on_two_axes(residual):
    found = match(small("mlp_nano", residual=residual), small("mlp_nano", 1, residual=residual))
    assert found.after > found.before


@pytest.mark.parametrize("name", MODELS)
def test_matching_the_other_way_round_is_the_inverse(name):
    a, b = small(name), small(name, 1)
    there, back = match(a, b), match(b, a)
    inverse = there.spec.inverse(there.permutations)
    for group, parts in back.permutations.items():
        for mine, other in zip(parts, inverse[group], strict=True):
            assert torch.equal(mine, other)
    assert back.after == pytest.approx(there.after, rel=1e-12)


def test_neither_network_is_changed_and_indices_are_whole_numbers():
    a, b = small("vit_nano"), small("vit_nano", 1)
    before = [copy.deepcopy(model.state_dict()) for model in (a, b)]
    found = match(a, b)
    for state, model in zip(before, (a, b), strict=True):
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert {index.dtype for parts in found.permutations.values() for index in parts} == {
        torch.int64
    }


def test_running_statistics_have_no_vote():
    a, b = small("resnet_nano"), small("resnet_nano", 1)
    before = match(a, b)
    for name, buffer in b.named_buffers():
        if name.endswith("running_var"):
            buffer.mul_(100.0)
    after = match(a, b)
    assert after.after == before.after


def best(group: Group, products: list[Tensor]) -> float:
    """The largest ⟨P, M⟩ over all permutations of a small group."""
    inside = [
        list(itertools.permutations(range(part.size))) if part.free else [tuple(range(part.size))]
        for part in group.parts
    ]
    most = -float("inf")
    for order in itertools.permutations(range(group.blocks)):
        value = 0.0
        for part, product, ways in zip(group.parts, products, inside, strict=True):
            for i, j in enumerate(order):
                block = product[
                    i * part.size : (i + 1) * part.size, j * part.size : (j + 1) * part.size
                ]
                value += max(sum(float(block[r, c]) for r, c in enumerate(way)) for way in ways)
        most = max(most, value)
    return most


@pytest.mark.parametrize(
    "parts", [(Part(1, True),), (Part(2, True), Part(3, True)), (Part(2, False), Part(1, False))]
)
def test_an_assignment_of_blocks_is_the_best_of_all(parts):
    group = Group(3, parts)
    torch.manual_seed(0)
    products = [torch.randn(3 * part.size, 3 * part.size).double() for part in parts]
    found = assign(group, products)
    value = sum(
        float(product[torch.arange(len(index)), index].sum())
        for product, index in zip(products, found, strict=True)
    )
    assert value == pytest.approx(best(group, products), abs=1e-12)


PLAIN_ADD = "trunk.residual is a Add where b has a "
REFUSED = {
    "two classes": (("mlp_nano", {}), ("vit_nano", {}), "the model is a MLP where b has a Vi"),
    "two widths": (("mlp_nano", {}), ("mlp_nano", {"width": 16}), "num_features is 32 where b has"),
    "two residuals": (
        ("mlp_nano", {}),
        ("mlp_nano", {"residual": "attnres"}),
        f"{PLAIN_ADD}AttnRes",
    ),
    "two residuals of the same tensors": (
        ("mlp_nano", {}),
        ("mlp_nano", {"residual": "scaled"}),
        f"{PLAIN_ADD}Scaled",
    ),
    "two numbers of heads": (
        ("vit_nano", {"num_heads": 4}),
        ("vit_nano", {"num_heads": 2}),
        "num_heads is 4 where b has 2",
    ),
    "two poolings": (
        ("vit_nano", {}),
        ("vit_nano", {"global_pool": "avg"}),
        "where b has avg",
    ),
    "two curvatures": (
        ("mlp_nano", {"geometry": "poincare", "curvature": 0.1}),
        ("mlp_nano", {"geometry": "poincare", "curvature": 2.0}),
        "curvature",
    ),
    "places told and not": (
        ("encoder_nano", {"rotary": True}),
        ("encoder_nano", {"rotary": False}),
        "rotary is True where b has False",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_two_architectures_are_refused(case):
    first, second, word = REFUSED[case]
    a, b = (create_model(name, **options) for name, options in (first, second))
    for refusing in (match, lambda a, b: interpolate(a, b, 0.5)):
        with pytest.raises(ValueError, match=f"of one architecture, and differ: .*{word}"):
            refusing(a, b)


def test_rates_of_dropout_make_no_other_architecture():
    rates = {"drop_rate": 0.1, "drop_path_rate": 0.2, "attn_drop_rate": 0.1}
    a, b = create_model("vit_nano"), create_model("vit_nano", **rates)
    assert match(a, b).before <= match(a, b).after
    assert interpolate(a, b, 1.0) is not b


def test_weights_that_are_no_numbers_are_refused():
    a, b = small("mlp_nano"), small("mlp_nano", 1)
    with torch.no_grad():
        b.stem.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="b has weights that are not finite in stem.weight"):
        match(a, b)
