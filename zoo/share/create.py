"""Create any model by name, from a folder or from a hub."""

from typing import Any

from ..models import build_model
from ..network import Network
from .save_load import load_from_hub, load_model

__all__ = ["create_model"]


def create_model(name: str, **overrides: Any) -> Network:
    """Build a model.

    Args:
        name: A registered name, `local-dir:FOLDER` for a folder that `save_model` wrote, or
            `hf-hub:OWNER/NAME` for the same on the Hugging Face hub.
        overrides: Keywords of the builder; `model_info(name).options` lists them. Every model
            takes two beside them, a name or a mapping each: `lowrank`, as in
            `archzoo.zoo.axes.lowrank`, and `classifier`, the kind of the head, as in
            `archzoo.zoo.models.heads`. A saved model can be given another `num_classes` or
            `in_chans`; what then stays fresh is logged.

    Raises:
        ValueError: unknown name or keyword, a value of another type or out of range, or a saved
            model that cannot be rebuilt.
    """
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        return load_model(place, **overrides)
    if scheme == "hf-hub":
        return load_from_hub(place, **overrides)
    if place or "/" in name:
        raise ValueError(
            f"{name!r} is no model name; write local-dir:{name} for a folder "
            f"or hf-hub:{name} for the Hugging Face hub"
        )
    return build_model(name, **overrides)
