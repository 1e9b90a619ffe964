"""The five commands before `archzoo` still work, and each says in one line what it is now."""

import importlib
import tomllib
from pathlib import Path

import pytest
from archzoo.train.command_line.known_commands import names
from archzoo.train.command_line.old_names import models
from archzoo.train.commands import __main__ as archzoo

ROOT = Path(__file__).parents[3]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
OLD = [name for name in SCRIPTS if name != "archzoo"]


@pytest.fixture
def called(monkeypatch):
    """The words that reach `archzoo`."""
    from archzoo.train.command_line import old_names

    words = []
    monkeypatch.setattr(old_names, "main", words.append)
    return words


@pytest.mark.parametrize("script", [name for name in OLD if name != "archzoo-models"])
def test_an_old_name_hands_its_words_on_and_says_the_new_one(script, called, monkeypatch, capsys):
    module, _, function = SCRIPTS[script].partition(":")
    monkeypatch.setattr("sys.argv", [script, "run=a", "--help"])
    getattr(importlib.import_module(module), function)()
    new = script.removeprefix("archzoo-")
    assert new in names() and called == [[new, "run=a", "--help"]]
    said = capsys.readouterr()
    assert said.err == f"{script} is now `archzoo {new}`, and goes in the next release\n"
    assert said.out == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([], ["list", "models", "*"]),
        (["vit_*"], ["list", "models", "vit_*"]),
        (["vit_tiny"], ["info", "vit_tiny"]),
        (["--names", "gpt_nano"], ["list", "models", "gpt_nano"]),
        (["--residuals"], ["list", "residuals", "*"]),
        (["--lowrank", "mine", "--imports", "./a.py", "--imports", "b"],
         ["list", "lowrank", "mine", "imports=[./a.py,b]"]),
    ],
)  # fmt: skip
def test_the_old_list_is_the_new_one(old, new, called, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["archzoo-models", *old])
    models()
    assert called == [new]
    assert capsys.readouterr().err.count("\n") == 1


def test_the_script_is_the_command(capsys):
    assert SCRIPTS["archzoo"] == f"{archzoo.__name__}:main" and len(OLD) == 5
