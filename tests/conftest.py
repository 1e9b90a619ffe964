"""Let the suite run from a checkout that is not installed, on one thread, and always to an end."""

import faulthandler
import getpass
import importlib.util
import os
import random
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

if importlib.util.find_spec("archzoo") is None:
    namespace = types.ModuleType("archzoo")
    namespace.__path__ = [str(ROOT)]
    sys.modules["archzoo"] = namespace

# torch finds compiled code again by its source and not by the instruction set it was compiled for:
# a run as a processor without AVX-512 would take wide code, whose results are then wrong.
CAPABILITY = torch.backends.cpu.get_cpu_capability()
CACHE = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{CAPABILITY}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))

# Two threads on a busy two-core machine cost up to thirty times more than one.
torch.set_num_threads(1)


# Not 0: many tests draw inputs from a generator of seed 0, and weights would be the same numbers.
SEED = 20


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed the global generators, so that no test's numbers depend on the tests before it."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini value `run_limit`, in minutes."""
    parser.addini("run_limit", "minutes after which the run ends, whatever it waits for", "string")


def refuse_another_checkout() -> None:
    """End the run where `import archzoo` finds the code of another checkout than these tests'."""
    for folder in ("layers", "zoo", "train"):
        spec = importlib.util.find_spec(f"archzoo.{folder}")
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if (ROOT / folder).is_dir() and found != ROOT / folder / "__init__.py":
            raise pytest.UsageError(
                f"these are the tests of {ROOT}, but archzoo.{folder} is {found}; install this "
                f"checkout with pip install -e {ROOT}, or run its own .venv"
            )


def pytest_configure(config: pytest.Config) -> None:
    """Set an end to the whole run, beside the one that pytest-timeout sets to each test.

    A controller that waits for a dead process runs no test, so no limit of a test reaches it.
    """
    refuse_another_checkout()
    if not hasattr(config, "workerinput"):
        minutes = float(config.getini("run_limit"))
        # A duplicate, since pytest redirects the original while it captures a test.
        faulthandler.dump_traceback_later(60 * minutes, exit=True, file=os.dup(2))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the end back, for whoever called pytest from a longer process."""
    if not hasattr(config, "workerinput"):
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str) -> None:
    """End the run at once with the test that a process died in; the others are not waited for."""
    pytest.exit(f"a process died while running {crashitem}", returncode=1)
