"""List what has a name: models, pretrained weights, residuals, low-rank methods, data sets, ….

Models by default; their parameters and MACs are counted on request, which builds each of them:

    archzoo list
    archzoo list "vit_*" counts=true
    archzoo list weights
    archzoo list residuals
    archzoo list data imports=[./my_data.py]
"""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from ...zoo import residuals
from ...zoo.axes.adapters import presets
from ...zoo.axes.lowrank import methods
from ...zoo.inspect.describe import example_shape, measure, residual_of
from ...zoo.models import heads, models
from ...zoo.registry import Entry, Registry, nearest, type_name
from ...zoo.share.pretrained import weights_cards
from ...zoo.share.weights_card import WeightsCard
from ..callbacks import callbacks, distillations
from ..command_line.answer import Answer
from ..command_line.table import aligned
from ..data import data_sets
from ..engine.loggers import loggers
from ..errors import UsageError
from ..user_imports import import_parts

__all__ = ["KINDS", "PRETRAINED_WEIGHTS", "list_"]

PRETRAINED_WEIGHTS = "weights"
"""What the command calls the kind of thing that has a card and no builder."""

KINDS: dict[str, Registry] = {
    "models": models,
    "residuals": residuals,
    "lowrank": methods,
    "distill": distillations,
    "adapters": presets,
    "heads": heads,
    "data": data_sets,
    "callbacks": callbacks,
    "loggers": loggers,
}


def list_(*words: str, counts: bool = False, imports: Sequence[str] = ()) -> Answer:
    """List the entries of a registry.

    Args:
        words: A kind (models, weights, residuals, lowrank, distill, adapters, heads, data,
            callbacks or loggers), a shell pattern such as "vit_*", or both.
        counts: Whether to build every model, without memory for its weights, and count parameters
            and MACs.
        imports: Modules of your own, or files, whose parts are listed as well.

    Raises:
        RunError: nothing matches, or a module cannot be imported.
    """
    import_parts(imports)
    kind, pattern = _kind_and_pattern(words)
    if kind == PRETRAINED_WEIGHTS:
        return _weights(pattern, counts)
    registry = KINDS[kind]
    names = registry.names(pattern)
    if not names:
        known = [*KINDS, *registry.names()] if len(words) < 2 else registry.names()
        raise UsageError(f"no {registry.noun} matches {pattern!r}{nearest(pattern, known)}")
    if counts and kind != "models":
        raise UsageError(f"counts=true counts models, not {kind}; leave it out")
    entries = [registry[name] for name in names]
    found = [_model(e, counts) if kind == "models" else _part(e) for e in entries]
    rows = [tuple(found[0]), *(tuple(map(_cell, row.values())) for row in found)]
    return Answer(found, "\n".join(aligned(rows)))


def _kind_and_pattern(words: Sequence[str]) -> tuple[str, str]:
    """Split the words into a kind and a pattern, either of which may be left out."""
    kinds = [*KINDS, PRETRAINED_WEIGHTS]
    if len(words) > 2:
        raise UsageError(f"{words[2]}: a word too many; write a kind and a pattern")
    if len(words) == 2:
        if words[0] not in kinds:
            raise UsageError(f"{words[0]} is no kind of thing{nearest(words[0], kinds)}")
        return words[0], words[1]
    word = words[0] if words else "models"
    return (word, "*") if word in kinds else ("models", word)


def _weights(pattern: str, counts: bool) -> Answer:
    """List cards; a pattern is of `MODEL/TAG` or of the model alone."""
    if counts:
        raise UsageError("counts=true counts models, not weights; leave it out")
    cards = weights_cards()
    names = [
        name for name in cards if fnmatch(name, pattern) or fnmatch(cards[name].model, pattern)
    ]
    if not names:
        raise UsageError(f"no pretrained weights match {pattern!r}{nearest(pattern, cards)}")
    found = [_card(cards[name]) for name in names]
    rows = [tuple(found[0]), *(tuple(map(_cell, row.values())) for row in found)]
    return Answer(found, "\n".join(aligned(rows)))


def _card(card: WeightsCard) -> dict[str, Any]:
    """What a line says of weights."""
    proved = [
        f"{100 * share:.2f} % at {eps}" for eps, share in card.certified.items() if "/" in eps
    ]
    return {
        "weights": card.name,
        "parameters": card.parameters,
        "data": card.data.get("name", ""),
        "figure": f"{card.headline.replace('_', ' ')} {card.figure}",
        "certified": proved[0] if proved else "",
        "precision": card.precision,
        "place": "in the package" if card.hub is None else f"hf-hub:{card.hub}",
    }


def _model(entry: Entry, counts: bool) -> dict[str, Any]:
    """What the registry says of a model and, if wanted, what building it says."""
    told: dict[str, Any] = {"model": entry.name}
    if counts:
        size = measure(entry.name)
        told |= {"parameters": size.parameters, "MACs": size.macs}
    shape = "×".join(map(str, example_shape(entry)))
    told |= {"input": f"{entry.kind} {shape}".rstrip(), "residual": residual_of(entry)}
    return told | {"geometry": entry.about["geometry"], "source": entry.source}


def _part(entry: Entry) -> dict[str, Any]:
    """What the registry says of anything else."""
    options = [f"{o.name}: {type_name(o.type)} = {o.default}" for o in entry.options.values()]
    told = {"name": entry.name, "source": entry.source, "what it is": entry.summary}
    return told | {"options": options}


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
