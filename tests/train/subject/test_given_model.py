"""A command's model is found by the place of its run, its files, its hub id or its name."""

import shutil

import pytest
import torch
from archzoo.train.errors import RunError
from archzoo.train.subject.given_model import find_model
from archzoo.zoo import create_model
from archzoo.zoo.share.save_load import CONFIG, WEIGHTS

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def saved(digits, tmp_path_factory):
    """The two files of the run's best model, alone."""
    folder = tmp_path_factory.mktemp("saved")
    for name in (CONFIG, WEIGHTS):
        shutil.copy(digits / name, folder / name)
    return folder


def test_a_model_is_the_same_wherever_it_is_found(digits, saved, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(saved))
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = create_model(f"local-dir:{digits}").eval()(x)
        for text in (
            *(str(digits), str(saved), str(saved / CONFIG), str(saved / WEIGHTS)),
            *(f"local-dir:{saved}", f"local-dir:{digits}", "hf-hub:some/one"),
        ):
            model = find_model(text).load()
            assert not model.training
            assert torch.equal(model(x), expected), text


def test_a_run_brings_its_data_and_a_saved_model_does_not(digits, saved):
    run, alone = find_model(str(digits)), find_model(str(saved))
    recorded = {"augment": True, "classes": None, "rotation": 0}
    assert (run.data, dict(run.data_options)) == ("digits", recorded)
    assert run.run is not None and run.config["model"]["name"] == "mlp_nano"
    assert (alone.data, alone.run) == (None, None)
    assert run.trained and alone.trained


def test_a_registered_name_has_no_weights_but_those_of_a_seed():
    from archzoo.train.data import data_sets

    place, splits = find_model("vit_nano"), data_sets.build("digits")
    assert not place.trained
    one, same, other = (place.build(splits, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_folder_called_like_a_model_is_taken_for_the_model_only_where_it_is_empty(
    saved, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit_nano").mkdir()
    assert not find_model("vit_nano").trained
    shutil.copytree(saved, tmp_path / "vit_nano", dirs_exist_ok=True)
    assert find_model("vit_nano").trained


BAD = {
    "no model of that name; did you mean 'vit_nano'": "vit_nono",
    "name a folder with config.yaml or with config.json and model.safetensors": "{place}",
    "t.csv holds no run that began and no saved model": "{place}/t.csv",
    "has not ended; finish it with resume=": "{place}/begun",
    "config.yaml is damaged": "{place}/broken",
}


@pytest.mark.parametrize(("message", "text"), BAD.items())
def test_what_is_no_model_is_refused_in_one_line(message, text, digits, place):
    for name, content in (("begun", (digits / "config.yaml").read_text()), ("broken", "a: [")):
        (place / name).mkdir(exist_ok=True)
        (place / name / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=message) as caught:
        find_model(text.format(place=place))
    assert "\n" not in str(caught.value)


def test_a_damaged_model_and_a_hub_out_of_reach_are_one_line(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "cut")
    (tmp_path / "cut" / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(RunError, match="is damaged") as caught:
        find_model(str(tmp_path / "cut")).load()
    assert "\n" not in str(caught.value)

    def unreachable(*_, **__):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(RunError, match="^hf-hub:some/one: no route to the hub$"):
        find_model("hf-hub:some/one").load()
