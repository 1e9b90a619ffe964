"""A run's card has its data, command, seed and figures, and nothing of the machine it ran on."""

import json

import pytest
from archzoo.train.errors import RunError
from archzoo.train.subject.run_card import command_of, data_of, run_card
from archzoo.zoo.share.model_card import hub_readme

pytestmark = pytest.mark.long


def test_a_runs_card_says_what_the_run_recorded(digits):
    card = run_card(str(digits))
    result = json.loads((digits / "result.json").read_text())
    assert (card.model, card.data["name"], card.seed) == ("mlp_nano", "digits", 0)
    assert card.headline == "accuracy" and card.metrics["accuracy"] == result["test"]["accuracy"]
    assert card.seeds == {"0": {f: result[f]["accuracy"] for f in ("validation", "test")}}
    assert "UCI Optical Recognition" in card.data_licence
    assert "## Figures" in hub_readme(card, "someone/thing")


def test_a_card_of_bytes_has_bits_and_one_of_a_table_its_name(text, rows):
    card = run_card(str(text))
    assert card.headline == "bits_per_byte" and card.metrics["bits_per_byte"] > 0
    assert run_card(str(rows)).data == {"name": "tabular", "table": "t"}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["archzoo train", "seed=3", "run_dir=/a"], "archzoo train seed=3"),
        (["/s/pytest/__main__.py", "tests"], ""),
    ],
)
def test_a_command_is_told_where_there_was_one(digits, command, told):
    path = digits / "environment.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "command": command}))
    assert run_card(str(digits)).command == told
    path.write_text(before)


def test_a_command_tells_nothing_of_the_machine():
    words = ["model=vit_nano", "data.root=/a/b", "data.path=/c d", "run_dir=/e", "resume=auto"]
    words += [
        "logger=[csv]",
        "trainer.progress=false",
        "trainer.steps=null",
        "hydra.run.dir=x",
        "lowrank.rank=2",
        "~recipe",
    ]
    told = command_of([*words, "data.download=true", "optim.options={betas: [0.9, 0.99]}"])
    assert told == (
        "archzoo train model=vit_nano data.root=DIR data.path=DIR lowrank.rank=2 '~recipe' "
        "data.download=true 'optim.options={betas: [0.9, 0.99]}'"
    )


def test_data_are_told_by_what_is_not_their_default():
    given = {"root": "/a", "augment": False, "validation": 5000, "download": True}
    assert data_of("fashion_mnist", given) == {"name": "fashion_mnist", "augment": False}


def test_what_is_no_ended_run_has_no_card(tmp_path, digits):
    with pytest.raises(RunError, match="holds no config.yaml; name the folder of a run"):
        run_card(str(tmp_path))
