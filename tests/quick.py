"""The quick tier: every law once, and once for each class of models, on one process and uncompiled.

A plugin, which `make quick` names on the command line. Of a test function's cases it keeps the
first; where a case names a model, the first of each class of models. What compiles or starts
processes is left out by its marker, and is an error here where it has none.
"""

import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch

# By marker: what a test without it may not call.
DOORS: dict[str, list[tuple[Any, str]]] = {
    "processes": [(subprocess.Popen, "__init__"), (BaseProcess, "start"), (os, "fork")],
    "compiles": [(torch, "compile"), (torch.export, "export")],
}
# What a run asks for the commit of its code and for the machine it runs on.
ASKED = ("git", "uname")


@functools.cache
def model_class(name: str) -> type | None:
    """The class of a registered model, or None where no model has this name."""
    from archzoo.zoo import list_models

    from .zoo.small_models import size_and_class

    return size_and_class(name)[1] if name in list_models() else None


def first_cases(items: list[pytest.Item]) -> list[pytest.Item]:
    """The first case of every test function and class of models, in the order given."""
    kept: dict[tuple[Any, ...], pytest.Item] = {}
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        classes = [model_class(value) for value in values if isinstance(value, str)]
        kept.setdefault((item.nodeid.partition("[")[0], *filter(None, classes)), item)
    return list(kept.values())


def pytest_configure() -> None:
    """Have tests of several paths find the plain ones alone, when they are imported."""
    os.environ["ARCHZOO_KERNELS"] = "0"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first cases, of what the markers have left."""
    kept = first_cases(items)
    chosen = set(map(id, kept))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = kept


def closed(owner: Any, door: str, marker: str) -> Callable[..., Any]:
    """A function that fails the test which calls it, with the marker that the test lacks."""
    opened = getattr(owner, door)

    def refuse(*arguments: Any, **options: Any) -> Any:
        if owner is subprocess.Popen and arguments[1][0] in ASKED:
            return opened(*arguments, **options)
        pytest.fail(f"{owner.__name__}.{door} in a quick test: mark it pytest.mark.{marker}")

    return refuse


@pytest.fixture(autouse=True, scope="session")
def closed_doors() -> Iterator[None]:
    """Close every door for as long as tests run."""
    with pytest.MonkeyPatch.context() as patch:
        for marker, doors in DOORS.items():
            for owner, door in doors:
                patch.setattr(owner, door, closed(owner, door, marker))
        yield
