"""Kernels under any layout, shape and dtype: the process lives, on equals off, or both refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .kernel_fuzz import cases

pytestmark = pytest.mark.processes

PROGRAM = Path(__file__).with_name("kernel_fuzz.py")
# Starts a package of this name from a checkout that is not installed, as tests/conftest.py does.
START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); import conftest; "
    "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def survey(first: int, step: int, limit: int = 50) -> tuple[int, list[str]]:
    """Return the number of cases that ran, and what broke the law; a case that kills is passed."""
    ran, broken = 0, []
    while len(broken) < limit:
        command = [sys.executable, "-W", "ignore", "-c", START, str(PROGRAM.parents[2])]
        command += [str(PROGRAM), str(first), str(step)]
        done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        broken += [line for line in lines if line.startswith("FAILED")]
        started = [line for line in lines if not line.startswith("FAILED")]
        ran += len(started)
        if done.returncode == 0:
            break
        assert started, done.stderr[-2000:]
        number, name = started[-1].split()
        reason = done.stderr.strip().rpartition("\n")[2]
        broken.append(f"DIED {number} {name}, exit status {done.returncode}: {reason}")
        first = int(number) + step
    return ran, broken


def test_some_of_all_cases_neither_kill_nor_differ():
    step = 41
    ran, broken = survey(0, step)
    assert not broken, "\n".join(broken)
    assert ran == -(-len(list(cases())) // step)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_case_kills_or_differs():
    everything = len(list(cases()))
    assert everything >= 2000
    ran, broken = survey(0, 1)
    assert not broken, "\n".join(broken)
    assert ran == everything
