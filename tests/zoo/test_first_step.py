"""What can be built can be trained and saved: every pair of choices, or a refusal that names it."""

import itertools
import typing
from typing import Any

import pytest
import torch
from archzoo.layers.lowrank import StepAdamW
from archzoo.zoo import create_model, residuals, save_model
from archzoo.zoo.axes.lowrank import method_info, methods
from torch import nn

from ..tiers import tiered
from .small_models import NANO, build, example, fitting, loss_of, on_meta

# Methods with an activation between the factors, so that no matrix stands behind a weight, and one
# with a term beside them; residuals whose branches take views.
HARD = {"cola", "lost", "sltrain"}
VIEWED = {"muddformer", "dca"}


def method_spec(name: str, **settings: Any) -> dict[str, Any]:
    """Return a method that finds targets in a small model and knows how long the run is."""
    given = {"total_steps": 4} if "total_steps" in method_info(name).options else {}
    return {"name": name, **given, **({"min_kernel": 1} if name == "trp" else {}), **settings}


def built(name: str, **options: Any) -> nn.Module | None:
    """Return a model, or None where it is refused: then by a sentence, and without weights too."""
    try:
        on_meta(name, **options)
    except ValueError as error:
        assert "\n" not in str(error)
        with pytest.raises(ValueError):
            build(name, **options)
        return None
    return build(name, **options)


def takes_a_step_and_comes_back(name: str, model: nn.Module, folder) -> None:
    """Train for one step, save, load, and compare the outputs bit by bit."""
    x = example(name)
    optimizer = StepAdamW(model.parameters(), lr=1e-3)
    controller = model.lowrank
    if controller is not None:
        controller.attach(optimizer)
    loss = loss_of(model.train()(x))
    penalty = None if controller is None else controller.penalty()
    (loss if penalty is None else loss + penalty).backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    save_model(model, folder)
    with torch.no_grad():
        assert torch.equal(create_model(f"local-dir:{folder}").eval()(x), model.eval()(x))


def usual(name: str, residual: str, method: str) -> bool:
    if name in ("vit_nano", "gpt_nano") and residual in VIEWED:
        return method in HARD
    return name == "mlp_nano" and (residual == "add" or method == "cola")


@pytest.mark.parametrize(
    ("name", "residual", "method"),
    tiered([(*pair, one) for pair in fitting(NANO) for one in methods.names()], usual),
)
def test_every_residual_with_every_method_takes_a_step_and_comes_back_or_is_refused(
    name, residual, method, tmp_path
):
    model = built(name, residual=residual, lowrank=method_spec(method))
    if model is not None:
        takes_a_step_and_comes_back(name, model, tmp_path)


def alternatives(option: Any) -> list[Any]:
    """Return other values of an option than its default; those out of range must be refused."""
    types = typing.get_args(option.type) or (option.type,)
    choices = [value for value in types if isinstance(value, str)]  # of a Literal
    if bool in types:
        choices += [True, False]
    elif int in types:
        choices += [1, 2]
    if float in types:
        choices += [0.5]
    return [value for value in choices if value != option.default]


def variants(residual: str) -> list[dict[str, Any]]:
    """Return a mechanism with every option, and every pair of options, away from the default."""
    options = residuals[residual].options
    single = [(key, value) for key in options for value in alternatives(options[key])]
    pairs = (p for p in itertools.combinations(single, 2) if p[0][0] != p[1][0])
    return [
        {"name": residual, **dict(chosen)} for chosen in [*((each,) for each in single), *pairs]
    ]


VARIANTS = [(name, spec) for name, residual in fitting(NANO) for spec in variants(residual)]


@pytest.mark.parametrize(
    ("name", "spec"),
    tiered(VARIANTS, lambda name, spec: name == "mlp_nano" and spec["name"].startswith("delta")),
)
def test_every_option_of_every_residual_takes_a_step_or_is_refused(name, spec, tmp_path):
    model = built(name, residual=spec)
    if model is not None:
        takes_a_step_and_comes_back(name, model, tmp_path)


@pytest.mark.parametrize("name", ["mlp_nano", "poincare_mlp_nano"])
@pytest.mark.parametrize("option", [{"expand": "convolution"}, {"compress": "tokens"}], ids=str)
def test_a_look_along_tokens_is_refused_where_a_sample_is_one_vector(name, option):
    spec = {"name": "delta", "value_channels": 2, **option}
    (key, value) = next(iter(option.items()))
    with pytest.raises(ValueError, match=f"{key}='{value}' looks along tokens.* one vector"):
        on_meta(name, residual=spec)
    on_meta("vit_nano", residual=spec)


RANKED = [name for name in methods.names() if "rank" in methods[name].options]
TARGETS = {"mlp_nano": ["trunk.branches.*.0"], "resnet_nano": ["stages.*.branches.*"]}


@pytest.mark.parametrize("rank", [1, 2, 1.0, 1e-9], ids=str)
@pytest.mark.parametrize("method", RANKED)
@pytest.mark.parametrize("name", TARGETS)
def test_every_method_takes_a_step_and_comes_back_at_the_ends_of_its_ranks(
    name, method, rank, tmp_path
):
    spec = method_spec(method, rank=rank, targets=TARGETS[name])
    model = built(name, lowrank=spec)
    assert model is not None
    for parameter in model.parameters():  # a view of more than itself would be kept and not saved
        held = parameter.untyped_storage().nbytes()
        assert held == parameter.numel() * parameter.element_size()
    takes_a_step_and_comes_back(name, model, tmp_path)


@pytest.mark.parametrize("method", RANKED)
def test_a_rank_above_the_full_one_is_refused_with_the_weight_s_name(method):
    with pytest.raises(ValueError, match=r"rank=33 exceeds the full rank 32 of trunk.branches.0.0"):
        on_meta("mlp_nano", lowrank=method_spec(method, rank=33, targets=["trunk.branches.0.0"]))
