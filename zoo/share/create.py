"""Create any model by name, fresh or pretrained, from a folder or from a hub."""

from typing import Any

from ..axes.adapters import apply_adapter
from ..models import build_model
from ..network import Network
from .pretrained import PRETRAINED, load_pretrained
from .save_load import load_from_hub, load_model

__all__ = ["create_model"]


def create_model(name: str, *, pretrained: bool | str = False, **overrides: Any) -> Network:
    """Build a model.

    Args:
        name: A registered name, `local-dir:FOLDER` for a folder that `save_model` wrote,
            `hf-hub:OWNER/NAME` for the same on the Hugging Face hub, or `pretrained:NAME/TAG` for
            a registered name with the weights of a tag.
        pretrained: Whether a registered name comes with trained weights, or the tag of those
            meant, such as `digits`; `timm` are those of timm. `archzoo list weights` lists them.
        overrides: Keywords of the builder; `model_info(name).options` lists them. Every model
            takes three beside them, a name or a mapping each: `lowrank`, as in
            `archzoo.zoo.axes.lowrank`, `adapter`, which is put beside the weights that the model
            has in the end, as in `archzoo.zoo.axes.adapters`, and `classifier`, the kind of the
            head, as in `archzoo.zoo.models.heads`. A saved or pretrained model can be given another
            `num_classes` or `in_chans`; what then stays fresh is logged.

    Raises:
        ValueError: unknown name or keyword, a value of another type or out of range, weights that
            there are not or that are of another model, or a saved model that cannot be rebuilt.
    """
    adapter = overrides.pop("adapter", None)
    model = _create(name, pretrained, overrides)
    if adapter is not None:
        apply_adapter(model, adapter)
    return model


def _create(name: str, pretrained: bool | str, overrides: dict[str, Any]) -> Network:
    scheme, _, place = name.partition(":")
    if place and pretrained:
        raise ValueError(f"{name} names its weights itself; leave pretrained={pretrained!r} out")
    if name.startswith(PRETRAINED):
        model, _, tag = place.partition("/")
        return load_pretrained(model, tag or True, **overrides)
    if scheme == "local-dir":
        return load_model(place, **overrides)
    if scheme == "hf-hub":
        return load_from_hub(place, **overrides)
    if place or "/" in name:
        raise ValueError(
            f"{name!r} is no model name; write local-dir:{name} for a folder, "
            f"hf-hub:{name} for the Hugging Face hub, or pretrained:{name} for weights of ours"
        )
    if pretrained:
        return load_pretrained(name, pretrained, **overrides)
    return build_model(name, **overrides)
