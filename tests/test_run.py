"""A run of tests ends, draws the same numbers, and tests the code beside it and no other's."""

import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from .quick import model_class
from .tiers import tiered

DIES = """
    import os

    def test_dies():
        os.kill(os.getpid(), 11)
"""
WAITS = """
    import time

    import pytest

    @pytest.mark.parametrize("second", range(100))
    def test_waits(second):
        time.sleep(1)
"""
OPENS = """
    import subprocess
    import sys

    import torch

    def test_starts():
        subprocess.run([sys.executable, "-c", ""])

    def test_compiles():
        torch.compile(torch.nn.Linear(2, 2))
"""


def run(folder: Path, limit: float, *options: str, **files: str) -> subprocess.CompletedProcess:
    """Run files of tests with this suite's conftest and a limit in minutes."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text(f"[pytest]\nrun_limit = {limit}\n")
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90
    )


@pytest.mark.slow
@pytest.mark.processes
def test_a_process_that_dies_ends_the_run_with_the_name_of_its_test(tmp_path):
    pytest.importorskip("xdist")
    in_two = ("-n", "2", "--dist", "loadfile", "--max-worker-restart", "0")
    result = run(tmp_path, 5, *in_two, dies=DIES, waits=WAITS)  # waiting would take 100 s
    assert result.returncode == 1
    assert "a process died while running test_dies.py::test_dies" in result.stdout


@pytest.mark.slow
@pytest.mark.processes
def test_a_run_ends_at_its_limit_wherever_it_stands(tmp_path):
    result = run(tmp_path, 0.05, waits=WAITS)
    assert result.returncode == 1
    assert "Timeout" in result.stderr and "test_waits.py" in result.stderr


@pytest.mark.processes
@pytest.mark.parametrize("folder", tiered(["layers", "zoo", "train"], ["zoo"]))
def test_the_code_of_another_checkout_is_not_tested(folder, tmp_path):
    tests, code = tmp_path / "tests", tmp_path / folder
    tests.mkdir()
    code.mkdir()
    (code / "__init__.py").touch()
    result = run(tests, 5, passes="def test_passes():\n    pass\n")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "passed" not in result.stdout
    said = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    assert len(said) == 1
    assert f"these are the tests of {tmp_path}, but archzoo.{folder} is " in said[0]


@pytest.mark.processes
def test_a_quick_run_has_one_case_of_each_law_and_opens_no_door(tmp_path):
    result = run(tmp_path, 5, "-p", "tests.quick", waits=WAITS, opens=OPENS)
    assert result.returncode == 1
    assert "2 failed, 1 passed, 99 deselected" in result.stdout
    assert "Popen.__init__ in a quick test: mark it pytest.mark.processes" in result.stdout
    assert "torch.compile in a quick test: mark it pytest.mark.compiles" in result.stdout


def test_a_quick_run_tells_models_by_their_class():
    assert model_class("vit_nano") is model_class("vit_base") is not None
    assert model_class("vit_nano") is not model_class("gpt_nano")
    assert model_class("block_attnres") is None


DRAWN = []


@pytest.mark.parametrize("turn", ["first", "second"])
def test_every_test_draws_the_same_numbers_whatever_ran_before_it(turn):
    DRAWN.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert DRAWN[-1] == DRAWN[0]
