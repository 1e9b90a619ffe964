"""Completion knows every command, its keys, and the names that a key may have."""

import json
import shutil
import subprocess

import pytest
from archzoo.train.command_line.known_commands import names
from archzoo.train.commands.__main__ import main
from archzoo.zoo import list_models


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The completion of bash in a file."""
    from archzoo.train.commands.completion import completion

    path = tmp_path_factory.mktemp("completion") / "archzoo.bash"
    path.write_text(completion("bash").text)
    return path


def completed(script, line: str) -> list[str]:
    """What bash proposes for a line."""
    code = (
        f"source {script}; COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'; COMP_LINE='{line}'; "
        f"COMP_POINT={len(line)}; _archzoo 2> /dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_keys_and_names(script):
    assert set(completed(script, "archzoo ")) == {*names(), "--help", "--version"}
    assert completed(script, "archzoo cert") == ["certify"]
    assert completed(script, "archzoo certify runs/a ep") == ["eps="]
    assert completed(script, "archzoo certify attack=f") == ["false"]
    assert completed(script, "archzoo info vit_b") == list_models("vit_b*")
    assert completed(script, "archzoo train model=vit_b") == list_models("vit_b*")
    assert completed(script, "archzoo train trainer.ste") == ["trainer.steps="]
    assert "data=tabular" in completed(script, "archzoo train data")
    assert completed(script, "archzoo nothing x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_every_shell_names_every_command(shell, capsys):
    main(["completion", shell])
    text = capsys.readouterr().out
    assert all(name in text for name in names()) and "model=vit_tiny" in text


def test_completion_as_json_has_the_words_of_every_command(capsys):
    main(["completion", "bash", "--json"])
    found = json.loads(capsys.readouterr().out)["commands"]
    assert found.keys() == {*names()}
    assert {"norm=l2", "norm=linf", "eps=", "box=false"} <= {*found["robustness"]}
