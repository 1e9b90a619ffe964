"""The code of the pages runs: Python in order, one namespace a page; command lines are read."""

import importlib.util
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from archzoo.train.override_errors import explain_overrides
from hydra import compose, initialize_config_module

from ..reference import ROOT
from ..tiers import tiered
from ..train.small_runs import store_schemas
from .code_blocks import PAGES, blocks, unresolved

NAMED = {page.name: page for page in PAGES}
WITH_PYTHON = {name: page for name, page in NAMED.items() if blocks(page, "python")}
WITH_SHELL = [page for page in PAGES if blocks(page, "sh")]
NOT_RUN = [block for page in PAGES for block in blocks(page, "python") if block.reason]
# Programs that are not ours; what is given to them is not read.
OTHERS = {"flock", "git", "mkdir", "pip", "pytest"}


def name(page: Path) -> str:
    """A page as a test names it."""
    return page.name


# The exports of docs/export.md take as long as all other pages together.
@pytest.mark.long
@pytest.mark.parametrize("page", tiered(WITH_PYTHON, lambda page: page != "export.md"))
def test_every_python_block_of_a_page_runs_after_those_before_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(NAMED[page], "python"):
        if block.reason is None:
            # Lines are those of the page, so that a traceback leads to it.
            exec(compile("\n" * (block.line - 1) + block.text, block.place, "exec"), namespace)


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.place)
def test_a_block_that_is_not_run_is_python_whose_names_are_known(block):
    assert len(block.reason.split()) >= 3
    compile(block.text, block.place, "exec")
    before = [b.text for b in blocks(block.page, "python") if b.line < block.line and not b.reason]
    assert unresolved(block.text) <= names_of(before)


def names_of(sources: list[str]) -> set[str]:
    """The names that pieces of code read or bind."""
    return {word for source in sources for word in re.findall(r"\b[A-Za-z_]\w*\b", source)}


def test_a_name_that_nothing_binds_is_found():
    assert unresolved("import a.b as c\nfor i in x: print(c, i)") == {"x"}
    assert unresolved("from a import b\ndef f(y):\n    return b(y, z)") == {"z"}


def command_of(line: str) -> list[str]:
    """The words of the first command of a line, without the variables that are set before it."""
    words = shlex.split(re.split(r" > | \| | && ", line)[0], comments=True)
    return [*itertools.dropwhile(re.compile(r"[A-Z_]+=").match, words)]


@pytest.mark.long
@pytest.mark.parametrize("page", WITH_SHELL, ids=name)
def test_every_command_of_a_page_is_of_a_program_that_is_there(page):
    """What follows `archzoo` is read in test_one_command.py, by the command's signature."""
    store_schemas()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = command_of(line)
            if not words or words[0] == "archzoo":
                continue
            if words[0] in ("python", "torchrun") and "-m" in words:
                at = words.index("-m")
                module, rest = words[at + 1], words[at + 2 :]
                assert importlib.util.find_spec(module), line
                if module == "archzoo.train":
                    explain_overrides(rest)
            elif words[0] == "python":
                assert (ROOT / words[1]).is_file(), line
            elif words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= targets, line
            else:
                assert words[0] in OTHERS, line
            for extra in re.findall(r"\.\[(\w+)\]", line):
                assert extra in extras, line


@pytest.mark.long
def test_the_config_of_the_guide_composes(tmp_path):
    (block,) = blocks(ROOT / "docs" / "guide.md", "yaml")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(block.text)
    store_schemas()
    with initialize_config_module("archzoo.conf", version_base=None):
        config = compose(
            "train", overrides=["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]
        )
    assert config.model.residual == {"name": "block_attnres", "block_size": 2}
    assert (config.data.name, config.trainer.epochs, config.trainer.mixup) == ("cifar10", 100, 0.2)
