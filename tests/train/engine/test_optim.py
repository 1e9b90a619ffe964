"""Optimisers: which weights decay, and what is refused."""

import pytest
import torch
from archzoo.train.config import OptimConfig
from archzoo.train.engine.optim import check_optimizer, check_sharing, make_optimizer
from archzoo.zoo import create_model, list_models, model_info

SMALL = [name for name in list_models("*_nano*")]
# The points of a table need a Riemannian optimiser; that another is refused is tested below.
EUCLIDEAN = [name for name in SMALL if model_info(name).kind != "nodes"]


def undecayed(model, optimizer):
    ids = {
        id(p)
        for group in optimizer.param_groups
        if group["weight_decay"] == 0.0
        for p in group["params"]
    }
    return {name for name, p in model.named_parameters() if id(p) in ids}


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [("riemannian_adam", name) for name in SMALL] + [("adamw", name) for name in EUCLIDEAN],
)
def test_only_matrices_that_no_layer_marks_decay(name, optimizer):
    model = create_model(name)
    free = undecayed(model, make_optimizer(model, OptimConfig(optimizer, weight_decay=0.1)))
    for key, parameter in model.named_parameters():
        assert (key in free) == (parameter.dim() <= 1 or key in model.no_weight_decay()), key


@pytest.mark.parametrize("name", [n for n in SMALL if "attnres" in n])
def test_muon_leaves_the_pseudo_queries_to_adamw(name):
    model = create_model(name)
    options = {"fallback_no_weight_decay": True, "fallback_list": ["head*", "embedding*"]}
    optimizer = make_optimizer(model, OptimConfig("muon", weight_decay=0.1, options=options))
    by_adamw = {id(p) for g in optimizer.param_groups if g.get("use_fallback") for p in g["params"]}
    marked = model.no_weight_decay()
    assert any(key.endswith("residual.query") for key in marked)
    for key, parameter in model.named_parameters():
        if key in marked:
            assert id(parameter) in by_adamw, key


@pytest.mark.parametrize("name", ["projected_adamw", "trion"])
def test_a_projected_optimiser_leaves_embeddings_and_what_is_named_to_adamw(name):
    model = create_model("gpt_nano")
    names = {id(p): key for key, p in model.named_parameters()}

    def projected(**options):
        made = make_optimizer(model, OptimConfig(name, lr=0.25, options=options))
        assert {group["initial_lr"] for group in made.param_groups} == {0.25}
        return {names[id(p)] for g in made.param_groups if g["projected"] for p in g["params"]}

    usual = projected(rank=0.5)
    assert "embedding.weight" not in usual and "trunk.branches.0.qkv.weight" in usual
    assert projected(unprojected=["embedding", "*.qkv"]) == {k for k in usual if ".qkv." not in k}


@pytest.mark.parametrize(
    "name", ["adamw", "lookahead_adamw", "riemannian_adam", "step_adamw", "trion", "muon"]
)
def test_what_a_layer_marks_with_a_rate_of_its_own_gets_it_from_every_optimiser(name):
    model = create_model("gpt_nano", residual={"name": "embedding_skip", "rate": 4.0})
    made = make_optimizer(model, OptimConfig(name, lr=0.5, weight_decay=0.1))
    names = {id(p): key for key, p in model.named_parameters()}
    found = {names[id(p)]: g for g in made.param_groups for p in g["params"]}
    assert found.keys() == dict(model.named_parameters()).keys()
    for key, group in found.items():
        rate = {"carry": 0.02, "skip": 2.0}.get(key.rpartition(".")[2], 0.5)
        assert group["lr"] == group["initial_lr"] == rate, key
        if rate != 0.5:
            assert group["weight_decay"] == 0.0
    assert made.param_groups[0]["lr"] == 0.5


def test_a_projected_optimiser_is_refused_factors_and_shards():
    factored = create_model("mlp_nano", lowrank={"name": "low_rank", "rank": 0.25})
    with pytest.raises(ValueError, match=r"made of factors.*lowrank=none$"):
        make_optimizer(factored, OptimConfig("trion"))
    with pytest.raises(ValueError, match="trainer.parallel=fsdp cuts into pieces; use trainer.par"):
        check_sharing(OptimConfig("projected_adamw"), "fsdp")
    check_sharing(OptimConfig("projected_adamw"), "ddp")
    check_sharing(OptimConfig("adamw"), "fsdp")


def test_a_manifold_parameter_stays_on_its_manifold_under_riemannian_adam():
    import geoopt

    model = torch.nn.Module()
    model.point = geoopt.ManifoldParameter(torch.tensor([3.0, 4.0]) / 5, manifold=geoopt.Sphere())
    optimizer = make_optimizer(model, OptimConfig("riemannian_adam", lr=0.1))
    for _ in range(5):
        optimizer.zero_grad()
        model.point[0].backward()
        optimizer.step()
    # Retraction renormalises, so the norm is 1 up to float32 rounding.
    assert float(model.point.detach().norm()) == pytest.approx(1.0, abs=1e-6)
    assert float(model.point.detach()[0]) < 0.6


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_an_optimiser_that_would_leave_the_manifold_is_refused(name):
    model = create_model("poincare_embedding_nano")
    said = f"optim.name={name} would take embedding.points off its manifold; use optim=riemannian"
    with pytest.raises(ValueError, match=said):
        make_optimizer(model, OptimConfig(name))
    flat = create_model("poincare_embedding_nano", geometry="euclidean")
    assert make_optimizer(flat, OptimConfig(name)).param_groups


def test_every_group_keeps_the_base_rate_for_the_schedule():
    optimizer = make_optimizer(create_model("mlp_nano"), OptimConfig(lr=0.25))
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (OptimConfig("adamx"), "optim.name: no optimiser 'adamx'; did you mean"),
        (OptimConfig(lr=0.0), "optim.lr must be above 0, got 0.0"),
        (OptimConfig(lr=float("nan")), "optim.lr must be above 0, got nan"),
        (OptimConfig(weight_decay=-1.0), "optim.weight_decay must be at least 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused_by_name(config, said):
    with pytest.raises(ValueError, match=said):
        check_optimizer(config)


def test_an_option_the_optimiser_does_not_take_is_refused():
    with pytest.raises(ValueError, match="optim.options: adamw does not take them.*betaz"):
        make_optimizer(create_model("mlp_nano"), OptimConfig(options={"betaz": 1}))


def test_a_setting_of_a_projected_optimiser_out_of_range_is_refused_by_name():
    said = "optim.options of projected_adamw: basis must be one of dct, svd, random, got 'fft'"
    with pytest.raises(ValueError, match=said):
        make_optimizer(
            create_model("mlp_nano"), OptimConfig("projected_adamw", options={"basis": "fft"})
        )


def test_every_model_names_only_its_own_parameters_as_free_of_decay():
    assert SMALL
    for name in SMALL:
        model = create_model(name)
        known = dict(model.named_parameters())
        assert model.no_weight_decay() <= known.keys(), model_info(name).summary
