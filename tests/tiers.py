"""Cases of a law in two tiers: the usual ones in `make test`, all others in `make slow`."""

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import pytest

__all__ = ["tiered"]


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


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={each}" for key, each in value.items())
    return str(value)
