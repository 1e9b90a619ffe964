"""Cases of a law in two tiers, `make test` and `make slow`, and which of them this run has."""

import functools
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import pytest

__all__ = ["selected", "tiered"]


def tiered(cases: Iterable[Any], usual: Container[Any] | Callable[..., bool]) -> list[Any]:
    """All cases under readable names, marked slow where they are not usual.

    Args:
        cases: Values of one parameter, or tuples of several.
        usual: The cases that `make test` runs, or a function that says so of a case.
    """
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        kept = usual(*values) if callable(usual) else case in usual
        name = "-".join(map(_text, values))
        found.append(pytest.param(*values, marks=[] if kept else pytest.mark.slow, id=name))
    return found


def selected(request: pytest.FixtureRequest, argument: str) -> set[Any]:
    """The values of one parameter over all tests of a module that this run has selected."""
    here = [item for item in request.session.items if item.path == request.path]
    called = [item.callspec.params for item in here if isinstance(item, pytest.Function)
              and hasattr(item, "callspec")]  # fmt: skip
    return {params[argument] for params in called if argument in params}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={each}" for key, each in value.items())
    return _text(value.keywords) if isinstance(value, functools.partial) else str(value)
