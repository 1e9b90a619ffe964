"""Pretrained weights are listed, described, measured and started from by name."""

import json

import pytest
from archzoo.train.commands.__main__ import main
from archzoo.zoo import create_model
from archzoo.zoo.share.pretrained import weights_cards

from ..small_runs import train

NAME = "vit_nano_block_attnres"
CARD = weights_cards()[f"{NAME}/digits"]


def told(capsys, *words: str) -> str:
    main(words)
    return capsys.readouterr().out


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit):
        main(words)
    return capsys.readouterr().err


def test_all_weights_are_listed_and_a_pattern_chooses(capsys):
    listed = json.loads(told(capsys, "list", "weights", "--json"))
    assert {row["weights"] for row in listed} == weights_cards().keys()
    (one,) = json.loads(told(capsys, "list", "weights", NAME, "--json"))
    assert one["weights"] == CARD.name and one["place"] == "in the package"
    assert CARD.figure in told(capsys, "list", "weights", "vit_nano_*/digits")
    assert "no pretrained weights match 'vit_x*'" in refused(capsys, "list", "weights", "vit_x*")
    assert "counts=true counts models" in refused(capsys, "list", "weights", "counts=true")


def test_info_tells_of_a_models_weights_and_shows_a_card(capsys):
    assert CARD.figure in told(capsys, "info", NAME)
    facts = json.loads(told(capsys, "info", NAME, "--json"))
    assert facts["pretrained"][0]["sha256"] == CARD.sha256
    assert f"# {CARD.name}" in told(capsys, "info", CARD.name)
    assert json.loads(told(capsys, "info", CARD.name, "--json"))["metrics"] == CARD.metrics
    assert "pretrained" not in told(capsys, "info", "vit_base")
    assert "did you mean" in refused(capsys, "info", f"{NAME}/digit")


def test_weights_are_measured_on_the_data_of_their_card(capsys):
    found = json.loads(told(capsys, "eval", f"pretrained:{NAME}", "--json"))
    assert found["data"] == "digits" and found["samples"] == 360 and found["trained"]
    assert found["reported"] == CARD.metrics["accuracy"]
    assert found["accuracy"] == pytest.approx(CARD.metrics["accuracy"], abs=0.003)
    assert "; the card says " in told(capsys, "eval", f"pretrained:{CARD.name}")
    assert "has no pretrained weights 'x'" in refused(capsys, "eval", f"pretrained:{NAME}/x")


@pytest.mark.long
def test_a_run_starts_from_pretrained_weights(tmp_path, capsys):
    still = ("optim.lr=1e-30", "optim.weight_decay=0", "trainer.steps=1")
    train(tmp_path / "run", f"model={NAME}", f"init=pretrained:{NAME}", *still)
    assert f"init: the weights of {NAME} in pretrained:{NAME}\n" in capsys.readouterr().out
    ours, theirs = create_model(f"local-dir:{tmp_path / 'run'}"), create_model(f"pretrained:{NAME}")
    for key, value in theirs.state_dict().items():
        assert (ours.state_dict()[key] - value).abs().max() < 1e-6, key
