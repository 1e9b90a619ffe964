"""The product of a comparison's axes."""

import pytest
from archzoo.train.compare.points import product, training_config
from archzoo.train.errors import RunError


def test_points_are_every_combination_named_by_the_axes_with_several_values():
    axes = {"model": ["vit_nano"], "residual": ["add", "delta"], "lowrank": ["none", "maestro"]}
    points = product(axes)
    assert [point.label for point in points] == [
        "add · dense", "add · maestro", "delta · dense", "delta · maestro",
    ]  # fmt: skip
    assert [point.values["lowrank"] for point in points] == [None, "maestro"] * 2
    assert [point.slug for point in points][:2] == ["add-dense", "add-maestro"]


def test_one_point_is_named_by_its_model():
    (point,) = product({"model": ["gpt_nano"], "residual": ["add"]})
    assert point.label == "gpt_nano" and point.options() == {"residual": "add"}


def test_an_axis_that_is_not_given_is_the_models_own():
    (point,) = product({"model": ["gpt_nano"], "residual": ()})
    assert point.options() == {}


def test_a_residual_with_options_is_named_with_them():
    spec = {"name": "delta", "value_channels": 4}
    points = product({"model": ["vit_nano"], "residual": ["add", spec]})
    assert points[1].label == "delta(value_channels=4)"
    assert points[1].slug == "delta-value_channels=4"


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"model": []}, "model names no model"),
        ({"model": ["a", "a"]}, "model names a twice"),
        ({"model": ["a"], "residual": ["add", "delta", "add"]}, "residual names add twice"),
    ],
)
def test_a_product_of_nothing_or_of_doubles_is_refused(axes, said):
    with pytest.raises(RunError, match=said):
        product(axes)


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"model": ["vit_nan"]}, "no model named 'vit_nan'; did you mean 'vit_nano'"),
        (
            {"model": ["sll_resnet_nano"], "geometry": ["poincare"]},
            "nano has no geometry to choose",
        ),
        ({"model": ["gpt_nano"]}, "model=gpt_nano reads tokens, but data=digits gives image"),
        ({"model": ["vit_nano"], "residual": ["ad"]}, "'ad'; did you mean 'add'"),
        ({"model": ["vit_nano"], "lowrank": ["maestr"]}, "lowrank=maestr: no such choice"),
    ],
)
def test_a_point_that_cannot_be_says_why_in_one_line(axes, said):
    (point,) = product(axes)
    with pytest.raises(RunError, match=said) as told:
        training_config(point, "digits", 0, 10, [])
    assert "\n" not in str(told.value)


def test_a_run_is_that_of_the_trainer_with_the_points_values():
    (point,) = product({"model": ["vit_nano"], "residual": ["delta"], "lowrank": ["maestro"]})
    config = training_config(point, "digits", 3, 10, ["optim=adamw", "trainer.batch_size=16"])
    assert config.model["residual"] == "delta" and config.lowrank["name"] == "maestro"
    assert (config.seed, config.trainer.steps, config.trainer.epochs) == (3, 10, None)
    assert (config.optim.name, config.trainer.batch_size) == ("adamw", 16)
