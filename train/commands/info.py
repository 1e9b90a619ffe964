"""Describe what has a name: source, options with types and defaults, and of a model its size.

The size is counted on a model without memory for its weights:

    archzoo info vit_tiny
    archzoo info block_attnres
    archzoo info gpt_124m --json
    archzoo info my_net imports=[./my_net.py]
"""

import inspect
from collections.abc import Sequence
from typing import Any

from ...zoo.inspect.describe import describe, facts_of
from ...zoo.registry import Entry, nearest, type_name
from ..command_line.answer import Answer
from ..command_line.table import aligned
from ..errors import UsageError
from ..user_imports import import_parts
from .list import KINDS

__all__ = ["info"]


def info(name: str, *, imports: Sequence[str] = ()) -> Answer:
    """Describe a model, a residual, a low-rank method, a head, a data set, a callback or a logger.

    Args:
        name: Its name; `archzoo list` has all of a kind. Of several that share it, the model.
        imports: Modules of your own, or files, whose parts are known as well.

    Raises:
        RunError: there is no such name, or a module cannot be imported.
    """
    import_parts(imports)
    registry = next((registry for registry in KINDS.values() if name in registry), None)
    if registry is None:
        known = [each for registry in KINDS.values() for each in registry.names()]
        raise UsageError(f"nothing is named {name!r}{nearest(name, known)}")
    entry = registry[name]
    if registry is KINDS["models"]:
        return Answer(facts_of(name) | {"options": _options(entry)}, describe(name))
    facts = {"name": name, "kind": registry.noun, "what it is": entry.summary}
    rows = [("option", "type", "default")]
    rows += [(o.name, type_name(o.type), repr(o.default)) for o in entry.options.values()]
    lines = [f"{name}: a {registry.noun}", "", inspect.getdoc(entry.build) or "", ""]
    lines += [f"source: {entry.source}", ""] if entry.source else []
    shown = [f"  {line}" for line in aligned(rows)] if len(rows) > 1 else ["no options"]
    return Answer(
        facts | {"source": entry.source, "options": _options(entry)}, "\n".join([*lines, *shown])
    )


def _options(entry: Entry) -> dict[str, Any]:
    """The types and defaults of a builder's keywords."""
    return {
        o.name: {"type": type_name(o.type), "default": o.default} for o in entry.options.values()
    }
