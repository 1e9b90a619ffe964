"""A run of tests always ends, and tests the code beside it and that of no other checkout."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

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


def run(folder: Path, limit: float, *options: str, **files: str) -> subprocess.CompletedProcess:
    """Run files of tests with this suite's conftest and a limit in minutes."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text(f"[pytest]\nrun_limit = {limit}\n")
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90)


def test_a_process_that_dies_ends_the_run_with_the_name_of_its_test(tmp_path):
    pytest.importorskip("xdist")
    in_two = ("-n", "2", "--dist", "loadfile", "--max-worker-restart", "0")
    result = run(tmp_path, 5, *in_two, dies=DIES, waits=WAITS)  # waiting would take 100 s
    assert result.returncode == 1
    assert "a process died while running test_dies.py::test_dies" in result.stdout


def test_a_run_ends_at_its_limit_wherever_it_stands(tmp_path):
    result = run(tmp_path, 0.05, waits=WAITS)
    assert result.returncode == 1
    assert "Timeout" in result.stderr and "test_waits.py" in result.stderr


@pytest.mark.parametrize("folder", ["layers", "zoo", "train"])
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
