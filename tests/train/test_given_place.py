"""A folder in the place of a model's name: what it stands for, and what is refused."""

import json

import pytest
from archzoo.train.check import check_run
from archzoo.train.errors import UsageError
from archzoo.train.initial.given_place import start_from_place
from archzoo.zoo import create_model, save_model

from .small_runs import configure


@pytest.mark.long
def test_a_folder_stands_for_its_model_with_its_settings_and_weights(tmp_path):
    folder = tmp_path / "a model"
    residual = {"name": "block_attnres", "block_size": 2}
    model = create_model("mlp_nano", in_features=64, num_classes=10, depth=3, residual=residual)
    save_model(model, folder)
    words = start_from_place([f"model=local-dir:{folder}", "adapter=lora", "seed=1"])
    assert words[0] == "model=mlp_nano" and words[-2:] == ("adapter=lora", "seed=1")
    config = configure(*words)
    assert config.init == str(folder) and config.seed == 1
    assert config.model["depth"] == 3 and config.model["residual"] == residual
    assert config.model["in_features"] is None
    check_run(config)


def test_other_words_are_left_as_they_are():
    words = ("model=mlp_nano", "init=local-dir:runs/base", "-m")
    assert start_from_place(words) == words


def test_a_folder_that_is_none_and_a_second_place_are_refused(tmp_path):
    place = f"model=local-dir:{tmp_path}"
    with pytest.raises(UsageError, match=r"config.json is not there; name the folder of a saved"):
        start_from_place([place])
    with pytest.raises(UsageError, match="names the weights itself; leave init= out"):
        start_from_place([place, "init=other"])
    for text in ("{", "{}", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UsageError, match="config.json is damaged"):
            start_from_place([place])
    for written in ({"name": "timm:vit", "options": {}},
                    {"name": "mlp_nano", "options": {"classifier": "x"}}):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(written))
        with pytest.raises(UsageError, match="nothing that a run can make; adapt it in Python"):
            start_from_place([place])
