"""Damaged or swapped files of a run: the answer of whole files, or a line that names one."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from archzoo.train.command_line.finished_run import finished_run
from archzoo.train.engine import loop
from archzoo.train.engine.loggers import CSVLogger
from archzoo.train.engine.saved.best_weights import BestWeights
from archzoo.train.engine.saved.folder_lock import FolderLock, is_locked
from archzoo.train.engine.saved.run_folder import RunFolder
from archzoo.train.errors import RunError
from archzoo.train.run import run
from archzoo.zoo import create_model
from archzoo.zoo.share.content_digest import sealed, unsealed

from ...tiers import tiered
from ..small_runs import configure, equal_weights, train
from .test_loop import Stop, rows, stop_after

pytestmark = pytest.mark.long

STEADY = ["trainer.evaluate_every=4", "trainer.log_every=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two seeds and two widths, ended, and one of each seed that was killed."""
    place = tmp_path_factory.mktemp("runs")
    for name, overrides in (
        ("whole", []), ("other", ["seed=1"]), ("wide", ["model.width=48"])
    ):  # fmt: skip
        train(place / name, *STEADY, *overrides)
    for name, overrides in (("cut", []), ("other_cut", ["seed=1"])):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 10)
            with pytest.raises(Stop):
                train(place / name, *STEADY, *overrides)
    return place


def copied(made: Path, name: str, to: Path) -> Path:
    shutil.copytree(made / name, to / name)
    return to / name


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def damage(path: Path, how: str, other: Path) -> None:
    """Damage a file, or put that of another run in its place."""
    if how == "swapped":
        shutil.copy(other, path)
    elif how == "gone":
        path.unlink()
    elif how.startswith("flipped"):
        flip(path, float(how.split()[1]))
    else:
        content = path.read_bytes()
        path.write_bytes(content[: {"half": len(content) // 2, "empty": 0}[how]])


HOW = ["flipped 0", "flipped .3", "flipped .5", "flipped .8", "flipped 1", "half", "empty", "gone"]
HOW = [*HOW, "swapped"]
FILES = ["config.yaml", "config.json", "model.safetensors", "result.json", "data.json"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("file", FILES)
def test_what_is_measured_of_a_run_is_of_that_run_or_a_file_is_named(made, tmp_path, file, how):
    place = copied(made, "whole", tmp_path)
    damage(place / file, how, made / ("wide" if file == "config.json" else "other") / file)
    try:
        found = finished_run(str(place))
    except RunError as error:
        assert "\n" not in str(error)
        assert file in str(error) or (how == "gone" and "has not ended" in str(error))
        return
    # Data of one digest are the same data, whichever run recorded them.
    assert not (how == "swapped" and file != "data.json" and file != "config.yaml")
    whole = finished_run(str(made / "whole"))
    assert found.tested == whole.tested
    x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    assert torch.equal(found.model(x), whole.model(x))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_saved_model_is_the_one_that_was_saved_or_a_file_is_named(made, tmp_path, file, how):
    place = copied(made, "whole", tmp_path)
    damage(place / file, how, made / ("other" if "model" in file else "wide") / file)
    x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    try:
        answer = create_model(f"local-dir:{place}").eval()(x)
    except ValueError as error:
        assert file in str(error)
        return
    assert torch.equal(answer, create_model(f"local-dir:{made / 'whole'}").eval()(x))
    assert how != "swapped"


def test_a_config_that_gives_weights_of_one_shape_another_meaning_is_noticed(made, tmp_path):
    place = copied(made, "whole", tmp_path)
    config = json.loads((place / "config.json").read_text())
    config["options"]["drop_rate"] = 0.5
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json and model.safetensors .* not written toge"):
        create_model(f"local-dir:{place}")


def test_a_model_of_an_earlier_version_is_read_without_digests(made, tmp_path):
    from safetensors.torch import load_file, save_file

    place = copied(made, "whole", tmp_path)
    config = json.loads((place / "config.json").read_text())
    del config["model.safetensors"]
    (place / "config.json").write_text(json.dumps(config))
    save_file(load_file(str(place / "model.safetensors")), str(place / "model.safetensors"))
    (place / "config.yaml").write_text((place / "config.yaml").read_text().partition("\n")[2])
    for name in ("result.json", "data.json"):
        content = json.loads((place / name).read_text())
        (place / name).write_text(
            json.dumps({k: v for k, v in content.items() if k not in ("digest", "of")})
        )
    assert finished_run(str(place)).tested == finished_run(str(made / "whole")).tested


# Going on.


def logged(place: Path) -> list[dict[str, str]]:
    """The rows of a run without times."""
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in rows(place)]


def go_on(made: Path, place: Path) -> None:
    """Finish a run that was killed, and expect what one that was not has."""
    train(place, *STEADY, f"resume={place}")
    assert equal_weights(made / "whole", place)
    assert logged(made / "whole") == logged(place)


@pytest.mark.parametrize("file", ["last.pt", "last-1.pt"])
def test_the_checkpoint_of_another_run_is_passed_over(made, tmp_path, capsys, file):
    place = copied(made, "cut", tmp_path)
    shutil.copy(made / "other_cut" / "checkpoints" / file, place / "checkpoints" / file)
    go_on(made, place)
    said = "last.pt is not of the run of config.yaml: seed=1 there, seed=0 here; bring the"
    assert (said in capsys.readouterr().out) == (file == "last.pt")


def cut_at_its_end(place: Path, *overrides: str) -> Path:
    """Leave a run that was killed before its test, and return its best weights: the first."""

    def fail(*_: object) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_finish", fail)
        with pytest.raises(Stop):
            train(place, *STEADY, "optim.lr=1e-30", *overrides)
    return place / "checkpoints" / "best-4.safetensors"


@pytest.mark.parametrize("of", ["run", "step"])
def test_the_best_weights_of_another_run_or_step_are_no_best_weights(tmp_path, capsys, of):
    own = cut_at_its_end(tmp_path / "own")
    if of == "run":
        shutil.copy(cut_at_its_end(tmp_path / "other", "seed=1"), own)
        told = "best-4.safetensors is of another run: seed=1 there, seed=0 here"
    else:
        folder = RunFolder(tmp_path / "own")
        folder.running = folder.read_config()
        best = BestWeights(folder)
        best.write(create_model("mlp_nano", in_features=64), 8)
        best.file(8).rename(own)
        told = "best-4.safetensors holds the weights of step 8"
    train(tmp_path / "own", *STEADY, "optim.lr=1e-30", "resume=auto")
    said = capsys.readouterr().out
    assert f"the best weights are lost, the last ones take their place: {own.parent}/{told}" in said


@pytest.mark.parametrize("how", HOW)
def test_a_run_goes_on_with_its_own_config_or_the_file_is_named(made, tmp_path, how):
    place = copied(made, "cut", tmp_path)
    damage(place / "config.yaml", how, made / "other_cut" / "config.yaml")
    if how == "swapped":
        with pytest.raises(RunError, match="of the run of config.yaml: seed=0 there, seed=1 here"):
            go_on_as_recorded(place)
        return
    try:
        go_on_as_recorded(place)
    except RunError as error:
        assert "config.yaml" in str(error) and "\n" not in str(error)
        return
    assert equal_weights(made / "whole", place)


def go_on_as_recorded(place: Path) -> None:
    run(configure(f"resume={place}", base=()), ["resume"])


@pytest.mark.parametrize("how", tiered([h for h in HOW if h != "gone"], [*HOW][::3]))
def test_damaged_facts_of_the_data_are_named_and_not_taken_for_other_data(made, tmp_path, how):
    place = copied(made, "cut", tmp_path)
    damage(place / "data.json", how, made / "other_cut" / "data.json")
    if how == "swapped":  # the same data
        go_on(made, place)
        return
    with pytest.raises(RunError, match=r"data\.json is damaged.*other_data=true"):
        go_on(made, place)
    train(place, *STEADY, "resume=auto", "other_data=true")
    assert equal_weights(made / "whole", place)


@pytest.mark.parametrize("how", HOW)
def test_damaged_rows_are_named_and_do_not_change_the_weights(made, tmp_path, capsys, how):
    place = copied(made, "cut", tmp_path)
    damage(place / "metrics.csv", how, made / "other_cut" / "metrics.csv")
    try:
        train(place, *STEADY, "resume=auto")
    except RunError as error:
        assert re.search(r"metrics\.csv is damaged: .*; mend it, or move it away", str(error))
        return
    assert equal_weights(made / "whole", place)
    if logged(place) != logged(made / "whole"):
        said = "metrics.csv holds other rows before step 8 than were written, or has lost some"
        assert said in capsys.readouterr().out


def test_a_line_that_a_killed_process_did_not_end_is_no_row(tmp_path):
    logger = CSVLogger(tmp_path, {})
    for step in (1, 2):
        logger.log(step, "train", {"loss": 0.5})
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("1")
    again = CSVLogger(tmp_path, {})
    assert [row["step"] for row in again.rows()] == ["1", "2"]
    again.resume(3)
    assert again.digest == logger.digest
    assert (tmp_path / "metrics.csv").read_text() == "step,split,loss\n1,train,0.5\n2,train,0.5\n"


@pytest.mark.parametrize("how", HOW)
def test_the_result_of_a_run_that_ended_is_its_own_or_the_file_is_named(made, tmp_path, how):
    place = copied(made, "whole", tmp_path)
    damage(place / "result.json", how, made / "other" / "result.json")
    before = {
        p.name: p.read_bytes() for p in place.iterdir() if p.is_file() and p.name != "run.lock"
    }
    try:
        train(place, *STEADY, "resume=auto")
    except RunError as error:
        assert re.search(r"result\.json is damaged or of another run: .*; bring a copy", str(error))
        assert all((place / name).read_bytes() == held for name, held in before.items())
        return
    result = RunFolder(place).read_result(RunFolder(place).read_config())
    whole = RunFolder(made / "whole")
    assert result == whole.read_result(whole.read_config())
    assert how in ("gone",) or before["result.json"] == (place / "result.json").read_bytes()


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[1]", b"3", b"{", b""])
def test_a_damaged_lock_neither_hides_nor_keeps_a_process(tmp_path, text):
    lock = FolderLock(tmp_path)
    (tmp_path / "run.lock").write_bytes(text)
    assert is_locked(tmp_path)
    with pytest.raises(RunError, match="is used by process None on None"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


def test_a_sealed_mapping_is_read_back_or_refused():
    content = {"a": [1, 2.5, None], "b": {"c": float("inf")}, "place": Path("x")}
    text = sealed(content).encode()
    assert unsealed(text) == {**content, "place": "x"}
    assert unsealed(b'{"a": 1}') == {"a": 1}  # of an earlier version
    for bad in (text.replace(b"2.5", b"2.4"), text[:-20], b"[1]", b"", b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011  # json's own words, or ours
            unsealed(bad)
