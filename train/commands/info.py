"""Describe what has a name: source, options with types and defaults, and of a model its size.

The size is counted on a model without memory for its weights. Of a model its pretrained weights are
listed, and `MODEL/TAG` shows the card of some:

    archzoo info vit_tiny
    archzoo info vit_nano_block_attnres/digits
    archzoo info block_attnres
    archzoo info gpt_124m --json
    archzoo info my_net imports=[./my_net.py]
"""

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...zoo.inspect.describe import describe, facts_of
from ...zoo.registry import Entry, nearest, type_name
from ...zoo.share.model_card import model_card
from ...zoo.share.pretrained import cards_of, weights_cards
from ...zoo.share.weights_card import WeightsCard
from ..command_line.answer import Answer
from ..command_line.table import aligned
from ..errors import UsageError
from ..user_imports import import_parts
from .list import KINDS

__all__ = ["info"]


def info(name: str, *, imports: Sequence[str] = ()) -> Answer:
    """Describe a model, a residual, a low-rank method, a head, a data set, a callback or a logger.

    Args:
        name: Its name, or that of pretrained weights; `archzoo list` has all of a kind. Of several
            that share it, the model.
        imports: Modules of your own, or files, whose parts are known as well.

    Raises:
        RunError: there is no such name, or a module cannot be imported.
    """
    import_parts(imports)
    cards = weights_cards()
    if name in cards:
        return Answer(asdict(cards[name]), model_card(cards[name]).rstrip())
    registry = next((registry for registry in KINDS.values() if name in registry), None)
    if registry is None:
        known = [*cards, *(each for registry in KINDS.values() for each in registry.names())]
        raise UsageError(f"nothing is named {name!r}{nearest(name, known)}")
    entry = registry[name]
    if registry is KINDS["models"]:
        own = cards_of(name)
        found = facts_of(name) | {"options": _options(entry)}
        return Answer(
            found | {"pretrained": [*map(asdict, own)]}, describe(name) + _pretrained(own)
        )
    facts = {"name": name, "kind": registry.noun, "what it is": entry.summary}
    rows = [("option", "type", "default")]
    rows += [(o.name, type_name(o.type), repr(o.default)) for o in entry.options.values()]
    lines = [f"{name}: a {registry.noun}", "", inspect.getdoc(entry.build) or "", ""]
    lines += [f"source: {entry.source}", ""] if entry.source else []
    shown = [f"  {line}" for line in aligned(rows)] if len(rows) > 1 else ["no options"]
    return Answer(
        facts | {"source": entry.source, "options": _options(entry)}, "\n".join([*lines, *shown])
    )


def _pretrained(cards: Sequence[WeightsCard]) -> str:
    """Write a line for each of a model's pretrained weights."""
    if not cards:
        return ""
    rows = [
        (f"  {card.tag}", f"{card.headline.replace('_', ' ')} {card.figure}", f"seed {card.seed}")
        for card in cards
    ]
    told = f"archzoo info {cards[0].name} shows the card"
    return "\n".join(["", "", f"  pretrained= (the first is that of True; {told})", *aligned(rows)])


def _options(entry: Entry) -> dict[str, Any]:
    """The types and defaults of a builder's keywords."""
    return {
        o.name: {"type": type_name(o.type), "default": o.default} for o in entry.options.values()
    }
