"""Laws of the groups of an optimiser that projects matrices."""

import pytest
import torch
from archzoo.layers.lowrank.optim.matrix_groups import matrix_groups
from archzoo.zoo import create_model
from torch import nn


def named(model: nn.Module, groups: list[dict], key: str) -> set[str]:
    ids = {id(p) for group in groups if group[key] for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_matrices_are_projected_but_for_embeddings_heads_and_what_a_layer_marks() -> None:
    model = create_model("gpt_nano", residual="attnres")
    groups = matrix_groups(model, 0.1)
    projected, decaying = named(model, groups, "projected"), named(model, groups, "weight_decay")
    marked = model.no_weight_decay()
    assert projected == {
        name
        for name, p in model.named_parameters()
        if p.dim() > 1 and name not in marked and "embed" not in name
    }
    assert any("query" in name for name in marked) and len(projected) == 10
    assert decaying == projected | {"embedding.weight"}
    every = sorted(id(p) for group in groups for p in group["params"])
    assert every == sorted(id(p) for p in model.parameters())


def test_patterns_name_modules_or_parameters_and_frozen_ones_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].requires_grad_(False)
    groups = matrix_groups(model, 0.1, ["0", "*.bias"])
    assert named(model, groups, "projected") == {"1.weight"}
    assert sum(len(group["params"]) for group in groups) == 4
    with pytest.raises(ValueError, match="unprojected: '3' matches no parameter; give patterns"):
        matrix_groups(model, 0.1, ["3"])


def test_weights_of_factors_are_refused_and_dense_ones_of_a_method_are_not() -> None:
    options = {"widths": (8, 8), "depths": (1, 1)}
    factors = create_model("resnet_nano", lowrank={"name": "low_rank", "rank": 0.25}, **options)
    with pytest.raises(ValueError, match="made of factors by a low-rank method.*lowrank=none"):
        matrix_groups(factors)
    trp = create_model("resnet_nano", lowrank={"name": "trp"}, **options)
    assert any(group["projected"] for group in matrix_groups(trp))
    assert isinstance(trp, torch.nn.Module)
