"""The same samples under other names of their classes are scored by no command in silence."""

from pathlib import Path

import numpy as np
import pytest
from archzoo.train.command_line.finished_run import finished_run
from archzoo.train.commands.__main__ import main
from archzoo.train.errors import RunError
from PIL import Image

from ..small_runs import train

COMMANDS = {
    "certify": ["samples=4", "attack=false", "estimate=false", "plot=false"],
    "robustness": ["samples=4", "eps=[1]", "steps=1", "device=cpu"],
    "export": ["out={out}", "parameters=0.9", "latency_seconds=0", "statistics=0"],
}


def pictures(root: Path, *classes: str) -> None:
    """Noise around a shade of its own for every class."""
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for shade, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(8):
                pixels = draw.normal(60 + 100 * shade, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cats and dogs, and the same images under other names."""
    place = tmp_path_factory.mktemp("names")
    pictures(place / "data", "cat", "dog")
    pictures(place / "renamed", "cat", "wolf")
    pictures(place / "exchanged", "dog", "cat")  # the cats lie in the folder of dogs
    pictures(place / "more", "ape", "cat", "dog")
    train(
        place / "run",
        *("data=imagefolder", "data.img_size=8", "data.resize=8", "data.validation=0.25"),
        *("data.policy=none", f"data.root={place / 'data'}", "trainer.batch_size=4"),
    )
    return place


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("data", ["renamed", "more"])
@pytest.mark.parametrize("command", COMMANDS)
def test_other_class_names_are_refused_by_name(
    made, tmp_path, monkeypatch, capsys, command, data, record
):
    words = [str(made / "run"), f"data.root={made / data}", *COMMANDS[command]]
    if not record:  # what the run recorded of its data is lost: the model knows its classes
        monkeypatch.setattr(
            "archzoo.train.engine.saved.run_folder.RunFolder.check_data", lambda *_: None
        )
    named = "'dog' of the model is 'wolf'" if data == "renamed" else "3 classes, the model 2"
    if record:
        went = "'dog' went, 'wolf' came" if data == "renamed" else "nothing went, 'ape' came"
        named = f"of its classes {went}"
    with pytest.raises(SystemExit) as stopped:
        main([command, *(word.format(out=tmp_path / "out") for word in words)])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.count("\n") == 1
    assert said.startswith(f"archzoo {command}: ") and named in said
    assert not (tmp_path / "out").exists()


def test_other_names_may_be_meant_but_not_another_number_of_classes(made):
    run, before = str(made / "run"), finished_run(str(made / "run"))
    found = finished_run(run, {"root": str(made / "renamed")}, other_data=True)
    assert found.splits.about["classes"] == ["cat", "wolf"]
    assert found.tested == before.tested
    with pytest.raises(RunError, match="the data has 3 classes, the model 2"):
        finished_run(run, {"root": str(made / "more")}, other_data=True)


def test_exchanged_classes_are_other_data(made):
    with pytest.raises(RunError, match="the data changed since .*: files sha256 was"):
        finished_run(str(made / "run"), {"root": str(made / "exchanged")})
