"""A command names steps or epochs, and the other, which a config may have set, is taken back."""

import pytest
from archzoo.train.given_length import take_back_the_other
from archzoo.train.override_errors import compose_config

from .small_runs import store_schemas


@pytest.mark.parametrize(
    ("given", "added"),
    [
        (["trainer.steps=5"], ["trainer.epochs=null"]),
        (["++trainer.steps=5"], ["trainer.epochs=null"]),
        (["-m", "trainer.steps=5,10"], ["trainer.epochs=null"]),
        (["trainer.epochs=2", "seed=1"], ["trainer.steps=null"]),
        (["trainer.epochs=null", "trainer.steps=5"], []),
        (["trainer.epochs=2", "trainer.steps=5"], []),
        (["trainer.steps=null"], []),
        (["~trainer.epochs"], []),
        (["resume=runs/a", "trainer.steps=5"], []),
        (["resume=auto", "trainer.steps=5"], ["trainer.epochs=null"]),
        (["trainer.steps_=3", "trainer.steps=[", "seed=2"], []),
        ([], []),
    ],
)
def test_the_other_length_is_taken_back_where_one_is_named(given, added):
    assert take_back_the_other(given) == (*given, *added)


@pytest.mark.parametrize("base", [[], ["trainer=debug"], ["experiment=bytes_gpt"]])
@pytest.mark.parametrize("given", ["trainer.steps=3", "trainer.epochs=2"])
def test_a_length_alone_is_enough_over_any_config(base, given):
    store_schemas()
    trainer = compose_config("train", take_back_the_other([*base, given])).trainer
    assert [trainer.steps, trainer.epochs].count(None) == 1
    key, _, value = given.removeprefix("trainer.").partition("=")
    assert trainer[key] == int(value)
