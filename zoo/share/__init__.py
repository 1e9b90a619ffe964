"""Saving, loading and sharing: folders, hubs, timm, and files that are never half-written."""

from .atomic_write import remove_unfinished, replacing
from .content_digest import content_digest, sealed, unsealed
from .create import create_model
from .model_card import model_card
from .pretrained import card_of, cards_of, register_weights, weights_cards
from .save_load import (
    CONFIG,
    WEIGHTS,
    load_weights,
    push_to_hub,
    read_about,
    save_model,
    save_weights,
)
from .timm_bridge import register_with_timm
from .weights_card import WeightsCard

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "WeightsCard",
    "card_of",
    "cards_of",
    "content_digest",
    "create_model",
    "load_weights",
    "model_card",
    "push_to_hub",
    "read_about",
    "register_weights",
    "register_with_timm",
    "remove_unfinished",
    "replacing",
    "save_model",
    "save_weights",
    "sealed",
    "unsealed",
    "weights_cards",
]
