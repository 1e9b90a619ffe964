"""Describe a model of the zoo: source, size, and every option with its type and default.

The size is counted on a model without memory for its weights:

    archzoo info vit_tiny
    archzoo info gpt_124m --json
    archzoo info my_net imports=[./my_net.py]
"""

from collections.abc import Sequence

from ...zoo.inspect.describe import describe, facts_of
from ...zoo.models import models
from ...zoo.registry import nearest, type_name
from ..command_line.answer import Answer
from ..errors import UsageError
from ..user_imports import import_parts

__all__ = ["info"]


def info(model: str, *, imports: Sequence[str] = ()) -> Answer:
    """Describe a registered model.

    Args:
        model: Its name; `archzoo list` has all of them.
        imports: Modules of your own, or files, whose models are known as well.

    Raises:
        RunError: there is no such model, or a module cannot be imported.
    """
    import_parts(imports)
    if model not in models:
        raise UsageError(f"no model named {model!r}{nearest(model, models.names())}")
    options = {
        o.name: {"type": type_name(o.type), "default": o.default}
        for o in models[model].options.values()
    }
    return Answer(facts_of(model) | {"options": options}, describe(model))
