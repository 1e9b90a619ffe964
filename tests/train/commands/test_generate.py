"""`archzoo generate`, and an adapter that is carried to another model without its data."""

import json
from pathlib import Path

import pytest
from archzoo.train.commands.__main__ import main
from archzoo.train.data import data_sets
from archzoo.train.subject.generation import generated
from archzoo.zoo import create_model

from ..small_runs import train
from .test_one_command import refused

WRITER = "pretrained:gpt_nano/bytes"


def test_a_text_is_written_whole_and_never_over_another(tmp_path: Path, capsys):
    path = tmp_path / "texts" / "own.txt"
    main(["generate", WRITER, str(path), "size=300", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == {"file": str(path), "bytes": 325, "drawn": 5, "samples": 5}
    written = path.read_bytes()
    assert len(written) == 325
    code, line = refused(capsys, "generate", WRITER, str(path))
    assert code == 1 and "is there already; name another file" in line
    assert path.read_bytes() == written and [*path.parent.iterdir()] == [path]


def test_a_judge_says_what_it_kept(tmp_path: Path, capsys):
    judge = "judge=pretrained:gpt_nano_block_attnres/bytes"
    words = ["generate", WRITER, str(tmp_path / "kept.txt"), judge, "size=300", "by=bits"]
    main([*words, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["drawn"]) == (5, 10)
    assert told["kept_bits_per_byte"] <= told["threshold"] <= told["drawn_bits_per_byte"] * 2
    assert told["kept_bits_per_byte"] < told["drawn_bits_per_byte"]


REFUSED = {
    "keep=0": "keep must lie in [1e-06, 1], got 0",
    "keep=1.5": "keep must lie in [1e-06, 1], got 1.5",
    "keep=1e-320": "keep must lie in [1e-06, 1], got 1e-320",
    "seed=-1": "seed must lie in [0, 2**64), got -1",
    "seed=18446744073709551616": "seed must lie in [0, 2**64), got 18446744073709551616",
    "temperature=-1": "temperature must be at least 0, got -1",
    "size=0": "size must be at least 1, got 0",
    "by=best": "by must be bits or ratio, got 'best'",
    "judge=gpt_nano": "gpt_nano is a registered name, which has no weights",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_cannot_be_is_one_line_and_writes_nothing(word: str, tmp_path: Path, capsys):
    _, line = refused(capsys, "generate", WRITER, str(tmp_path / "text.txt"), word)
    assert REFUSED[word] in line and not [*tmp_path.iterdir()]


def test_the_ratio_of_a_writer_with_one_text_alone_is_one_line(tmp_path: Path, capsys):
    words = ["generate", WRITER, str(tmp_path / "text.txt"), f"judge={WRITER}", "temperature=0"]
    _, line = refused(capsys, *words)
    assert "by=ratio needs a temperature above 0" in line and not [*tmp_path.iterdir()]


def test_a_file_that_appears_meanwhile_stays_as_it_is(tmp_path: Path, capsys, monkeypatch):
    path = tmp_path / "text.txt"

    def drawn(*given: object, **how: object):
        path.write_text("of another")
        return generated(*given, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("archzoo.train.commands.generate.generated", drawn)
    _, line = refused(capsys, "generate", WRITER, str(path), "size=64")
    assert "is there already; name another file" in line
    assert path.read_text() == "of another" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("name", ["n" * 300, "a_file/text.txt", "a_link"])
def test_what_cannot_be_written_is_found_before_any_model_is_loaded(
    name: str, tmp_path: Path, capsys, monkeypatch
):
    (tmp_path / "a_file").touch()
    (tmp_path / "a_link").symlink_to(tmp_path / "nowhere")
    before = {*tmp_path.iterdir()}
    monkeypatch.delattr("archzoo.train.commands.generate.language_model")
    _, line = refused(capsys, "generate", WRITER, str(tmp_path / name))
    assert ("is there already" if name == "a_link" else "cannot be written") in line
    assert "; name another file" in line and {*tmp_path.iterdir()} == before


@pytest.mark.long
def test_an_adapter_is_carried_over_without_a_byte_of_its_task(tmp_path: Path, capsys):
    task, text, adapted = tmp_path / "task.txt", tmp_path / "text.txt", tmp_path / "adapted"
    task.write_text("the task is a text of its own, which is gone afterwards. " * 300)
    common = ["data=bytes", "data.context_length=64", "trainer.batch_size=8", "adapter=lora"]
    common += ["model.width=96", "model.num_heads=4"]
    source = "pretrained:gpt_nano_block_attnres/bytes"
    own = ["model=gpt_nano_block_attnres", f"init={source}"]
    train(adapted, *common, *own, f"data.path={task}")
    task.unlink()
    with pytest.raises(ValueError, match="was not found"):
        data_sets.build("bytes", path=str(task))
    main(["generate", WRITER, str(text), "size=15000", f"judge={adapted}"])
    capsys.readouterr()
    carried = ["model=gpt_nano", f"init={WRITER}", f"data.path={text}"]
    teach = ["distill=soft_labels", f"distill.teacher={adapted}"]
    train(tmp_path / "carried", *common, *carried, *teach)
    result = json.loads((tmp_path / "carried" / "result.json").read_text())
    assert result["distill"]["teacher"] == str(adapted)
    assert create_model(f"local-dir:{tmp_path / 'carried'}").lowrank is not None
