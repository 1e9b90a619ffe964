"""What was measured of a model lies beside it or in a folder that is named, and loses nothing."""

import pytest
from archzoo.train.command_line.measured import ResultFolder
from archzoo.train.errors import RunError
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.zoo.share.save_load import save_model

NAME = "pretrained:ldlt_mlp_nano"


@pytest.fixture(scope="module")
def weights():
    """Weights that have no folder, on the data of their card."""
    return model_on_data(find_model(NAME))


def saved(weights, path):
    """The same weights in a folder."""
    place = str(save_model(weights.model, path))
    return model_on_data(find_model(place), {"name": "tabular", "table": "breast_cancer"})


def test_nothing_is_written_or_made_where_no_folder_is_known(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ResultFolder(weights, None)
    folder.write_text("found.json", "{}")
    assert folder.path is None and folder.facts("found.json") == {"written": None}
    assert folder.last_line("found.json") == (
        f"nothing was written, since {NAME} has no folder; folder=DIR keeps found.json there"
    )
    assert not list(tmp_path.iterdir())


def test_a_named_folder_goes_before_that_of_the_model(weights, tmp_path):
    subject = saved(weights, tmp_path / "model")
    assert ResultFolder(subject, None).path == tmp_path / "model"
    assert ResultFolder(subject, f"{tmp_path}/./model").path == tmp_path / "model"
    folder = ResultFolder(subject, str(tmp_path / "one" / "two"))
    assert not (tmp_path / "one").exists()
    folder.write_text("found.json", "{}")
    assert (tmp_path / "one" / "two" / "found.json").read_text() == "{}"


def test_the_folder_of_another_model_is_refused_before_anything_is_measured(weights, tmp_path):
    other = save_model(weights.model, tmp_path / "other")
    with pytest.raises(RunError, match="other holds another saved model; name another"):
        ResultFolder(weights, str(other))
    with pytest.raises(RunError, match="other holds another saved model; name another"):
        ResultFolder(saved(weights, tmp_path / "model"), str(other))


def test_a_file_is_no_folder(weights, tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/below"):
        with pytest.raises(RunError, match=f"{name} cannot be written to; name another folder"):
            ResultFolder(weights, str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_refused_write_is_one_line_and_leaves_what_was_there(weights, tmp_path):
    folder = ResultFolder(weights, str(tmp_path))
    folder.write_text("found.json", "1")

    def half(path):
        path.write_text("2")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="could not write to .*No space left.* is intact") as caught:
        folder.write("found.json", half)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    assert (tmp_path / "found.json").read_text() == "1"
