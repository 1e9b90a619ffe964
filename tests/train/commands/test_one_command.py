"""Every command of `archzoo` has one shape: its signature, its help, its JSON, its exit codes."""

import inspect
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from archzoo.train.command_line.arguments import read_arguments
from archzoo.train.command_line.help_text import command_help, described, whole_help
from archzoo.train.command_line.known_commands import command, names, summary
from archzoo.train.commands.__main__ import main
from archzoo.train.override_errors import explain_overrides

from ..small_runs import store_schemas

ROOT = Path(__file__).parents[3]


def refused(capsys, *words: str) -> tuple[int, str]:
    """The exit code of a command that ends in one line, and the line."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, said.err


def examples(name: str) -> list[str]:
    """The lines of a command's help that show how it is called."""
    text = inspect.getmodule(command(name)).__doc__
    return [line.strip() for line in text.splitlines() if line.startswith("    archzoo ")]


def test_help_names_every_command_and_what_it_does(capsys):
    main(["--help"])
    told = capsys.readouterr().out
    for name in names():
        assert f"  {name} " in told and summary(name) in told
    main([])
    assert capsys.readouterr().out == told == whole_help() + "\n"


@pytest.mark.parametrize("name", names())
def test_the_help_of_a_command_has_every_key_with_its_meaning_and_examples(name, capsys):
    main([name, "--help"])
    told = capsys.readouterr().out
    assert told.startswith(f"archzoo {name}") and summary(name) in told
    assert examples(name) and all(line in told for line in examples(name))
    function = command(name)
    if not hasattr(function, "whole_line"):
        assert told == command_help(name, function) + "\n"
        assert (
            described(function).keys() - {"options"}
            == inspect.signature(function).parameters.keys()
        )


@pytest.mark.parametrize("name", [n for n in names() if not hasattr(command(n), "whole_line")])
def test_every_example_is_read_by_the_signature(name):
    for line in examples(name):
        typed = line.partition("   ")[0].partition(" > ")[0]
        program, given, *words = shlex.split(typed)
        assert (program, given) == ("archzoo", name)
        read_arguments(command(name), [word for word in words if word != "--json"])


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_a_page_is_read(page):
    store_schemas()
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            program, name, *words = [*shlex.split(line.partition(" > ")[0], comments=True), "", ""]
            words = [word for word in words if word]
            if program != "archzoo" or {"--help", "--json"} & {name, *words}:
                continue
            assert name in names(), line
            if name != "train":
                read_arguments(command(name), words)
            elif not any(word.startswith("imports=") for word in words):
                explain_overrides(words)


def test_wrong_usage_is_one_line_with_the_nearest_name_and_exit_code_2(capsys):
    code, line = refused(capsys, "certfy")
    assert code == 2 and line.startswith("archzoo: no command 'certfy'; did you mean 'certify'")
    code, line = refused(capsys, "certify", "run", "epz=[1]")
    assert code == 2 and line.startswith("archzoo certify: epz: there is no key 'epz'; did you")
    assert refused(capsys, "--verson")[0] == 2
    assert refused(capsys, "info")[0] == 2
    code, line = refused(capsys, "info", "vit_tinny")
    assert code == 2 and "did you mean 'vit_tiny'" in line


def test_what_fails_is_one_line_and_exit_code_1(tmp_path, capsys):
    code, line = refused(capsys, "ranks", str(tmp_path))
    assert code == 1 and "holds no ranks.jsonl" in line


def test_a_reader_that_has_seen_enough_ends_a_command_in_peace(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        main(["--help"])


def test_an_interrupted_command_ends_with_the_code_of_its_signal(monkeypatch, capsys):
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("archzoo.train.commands.__main__.command", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["list"])
    assert stopped.value.code == 130 and capsys.readouterr().err == ""


def test_the_version_is_that_of_the_package(capsys):
    main(["--version"])
    assert re.fullmatch(r"archzoo \S.*\n", capsys.readouterr().out)


def test_json_holds_what_the_table_shows(capsys):
    main(["list", "residuals", "*attnres", "--json"])
    found = json.loads(capsys.readouterr().out)
    main(["list", "residuals", "*attnres"])
    lines = capsys.readouterr().out.splitlines()
    assert [row["name"] for row in found] == [line.split()[0] for line in lines[1:]]
    assert "block_attnres" in [row["name"] for row in found]
    main(["info", "mlp_nano", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] > 0 and told["options"]["width"]["type"] == "int"


@pytest.mark.parametrize("name", ["vit_tiny", "block_attnres", "maestro", "digits", "ema", "csv"])
def test_whatever_has_a_name_is_described(name, capsys):
    main(["info", name])
    told = capsys.readouterr().out
    main(["info", name, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert told.startswith(f"{name}: ")
    assert all(f"  {option} " in told for option in found["options"])


def test_what_is_told_of_every_part_fits_into_json():
    from archzoo.train.commands.info import info
    from archzoo.train.commands.list import KINDS

    for registry in KINDS.values():
        if registry.noun != "model":
            for name in registry.names():
                json.dumps(info(name).found, allow_nan=False)
