"""Trained weights by name: those that the package ships, and larger ones on a hub.

Weights are named `MODEL/TAG`, such as `vit_nano_block_attnres/digits`. Each is the folder of a
saved model (`save_load`), with a card beside it (`weights_card`). Shipped folders lie in
`zoo/pretrained/MODEL-TAG`; of weights on a hub the package holds the card alone, whose digest says
what must come from there.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models import model_info
from ..recipe import first_difference
from ..registry import listed, nearest
from .content_digest import content_digest
from .save_load import CONFIG, COPY, RESHAPING, build_empty, hub_folder, load_model
from .timm_weights import TIMM_TAG, load_from_timm
from .weights_card import CARD, WeightsCard, read_card

__all__ = [
    "PRETRAINED",
    "SHIPPED",
    "card_of",
    "cards_of",
    "config_digest",
    "load_pretrained",
    "register_weights",
    "shipped_folder",
    "weights_cards",
]

PRETRAINED = "pretrained:"
"""What an address of weights begins with; `MODEL` or `MODEL/TAG` follows."""

SHIPPED = Path(__file__).parents[1] / "pretrained"

_registered: dict[str, WeightsCard] = {}


@functools.cache
def _shipped() -> Mapping[str, WeightsCard]:
    cards = [read_card(path) for path in sorted(SHIPPED.glob(f"*/{CARD}"))]
    return {card.name: card for card in cards}


def weights_cards() -> dict[str, WeightsCard]:
    """Return every card by the name of its weights, `MODEL/TAG`."""
    return {**_shipped(), **_registered}


def register_weights(card: WeightsCard) -> None:
    """Give weights on a hub a name, under which `create_model(…, pretrained=…)` finds them.

    Args:
        card: With `model`, `tag`, `hub` and `sha256` at least.

    Raises:
        ValueError: the name is taken, no such model, or one of the four is missing.
    """
    for key in ("tag", "hub", "sha256"):
        if not getattr(card, key):
            raise ValueError(f"{card.name}: the card of weights on a hub needs {key}=…")
    model_info(card.model)
    if card.name in weights_cards() or card.tag == TIMM_TAG:
        raise ValueError(f"the weights' name {card.name!r} is taken; choose another tag")
    _registered[card.name] = card


def cards_of(model: str) -> list[WeightsCard]:
    """Return the cards of a model's weights, that of `pretrained=True` first."""
    own = [card for card in weights_cards().values() if card.model == model]
    return sorted(own, key=lambda card: not card.default)


def card_of(model: str, tag: str | bool = True) -> WeightsCard:
    """Return the card of a model's weights.

    Args:
        model: Registered name.
        tag: Which of its weights; True is the first.

    Raises:
        ValueError: no such model or weights; the message says which there are.
    """
    model_info(model)
    own = cards_of(model)
    if not own:
        having = sorted({card.model for card in weights_cards().values()})
        raise ValueError(
            f"{model} has no pretrained weights; use pretrained=False, init= of a trained model, "
            f"or one that has some: {listed(having, len(having))}"
        )
    tags = [card.tag for card in own]
    if tag is True:
        return own[0]
    if tag not in tags:
        raise ValueError(
            f"{model} has no pretrained weights {tag!r}{nearest(str(tag), tags)}; use "
            f"pretrained=True for {tags[0]!r}"
        )
    return own[tags.index(str(tag))]


def shipped_folder(card: WeightsCard) -> Path:
    """Where the package keeps a card, and the weights that it ships."""
    return SHIPPED / card.name.replace("/", "-")


def config_digest(folder: Path) -> str:
    """The digest of what a saved model's config holds; the digest of its weights is in there.

    Raises:
        ValueError: the config is missing or damaged.
    """
    try:
        return content_digest(json.loads((folder / CONFIG).read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged: {error}; {COPY}") from error


def load_pretrained(model: str, tag: str | bool = True, **overrides: Any) -> Any:
    """Build a model with its pretrained weights.

    Args:
        model: Registered name.
        tag: Which of its weights; True is the first, `timm` those of timm (`timm_weights`).
        overrides: Keywords of the builder. Another `num_classes` or `in_chans` is as in
            `load_model`; another rate of dropout changes no weight. Whatever else would build
            another model than the weights are of is refused.

    Raises:
        ValueError: no such weights, overrides that they do not fit, or damaged files.
        OSError: a hub cannot be reached.
    """
    if tag == TIMM_TAG:
        return load_from_timm(model, **overrides)
    card = card_of(model, tag)
    folder = shipped_folder(card) if card.hub is None else hub_folder(card.hub)
    if config_digest(folder) != card.sha256:
        raise ValueError(
            f"{folder} does not hold the weights of {card.name}: its digest is not the card's; "
            f"{COPY}"
        )
    _refuse_another_model(card, folder, overrides)
    return load_model(folder, **overrides)


def _refuse_another_model(card: WeightsCard, folder: Path, overrides: Mapping[str, Any]) -> None:
    """Refuse overrides that build another model than the weights are of.

    Raises:
        ValueError: naming the first difference.
    """
    if not overrides:
        return
    recipe = dict(json.loads((folder / CONFIG).read_text())["options"])
    free = {k: v for k, v in overrides.items() if k in RESHAPING or "drop" in k}
    asked = build_empty(card.model, {**recipe, **overrides})
    difference = first_difference(asked, build_empty(card.model, {**recipe, **free}))
    if difference is not None:
        others = sorted(overrides.keys() - free.keys())
        raise ValueError(
            f"the weights {card.name} are of another model than {', '.join(others)} "
            f"ask{'s' * (len(others) == 1)} for: {difference}; leave "
            f"{'it' if len(others) == 1 else 'them'} out, or say pretrained=False"
        )
