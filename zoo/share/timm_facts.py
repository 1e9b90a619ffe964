"""What timm's `pretrained_cfg` and its overlay say of a model: honoured, or refused in one line."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..models import model_info
from ..registry import nearest

__all__ = ["SOURCES", "FactsGiven", "facts_given", "own_facts", "share_facts"]

SOURCES = ("state_dict", "file", "url", "hf_hub_id")
"""Where weights may come from, of which timm's `load_pretrained` takes one."""

DATA = ("mean", "std", "crop_pct", "crop_mode", "interpolation", "label_names")
"""How data are prepared: what `follow_data` records and `save_model` keeps."""

STRUCTURE = (
    *("classifier", "first_conv", "fixed_input_size", "pool_size", "test_pool_size"),
    "custom_load",
)
"""What follows from how a model is built, so that no config can say otherwise."""


class FactsGiven(NamedTuple):
    """What was said beyond a model's own facts: keywords of its builder, and facts to note."""

    options: dict[str, Any]
    facts: dict[str, Any]


def facts_given(name: str, cfg: Any, overlay: Mapping[str, Any] | None) -> FactsGiven:
    """Read what timm passes to a builder.

    `input_size` and `num_classes` become keywords of the builder, where they differ from its own
    and the caller does not set them; a negative number of classes says that the head of a
    checkpoint does not fit.

    Args:
        name: Of the model.
        cfg: timm's `PretrainedCfg`, a mapping or None.
        overlay: What replaces entries of it.

    Raises:
        ValueError: an entry that timm does not know, or one that contradicts the model.
    """
    from timm.models import PretrainedCfg

    blank = {one.name: one.default for one in dataclasses.fields(PretrainedCfg)}
    if isinstance(cfg, PretrainedCfg):
        said = {key: value for key, value in vars(cfg).items() if value != blank[key]}
    else:
        said = dict(cfg or {})
    said |= overlay or {}
    unknown = [key for key in said if key not in blank]
    if unknown:
        raise ValueError(
            f"pretrained_cfg of {name} has no entry {unknown[0]!r}{nearest(unknown[0], blank)}"
        )
    own = own_facts(name)
    changed = {
        key: value
        for key, value in said.items()
        if value is not None and _plain(value) != _plain(own[key])
    }
    for key in STRUCTURE:
        if key in changed:
            raise ValueError(
                f"pretrained_cfg says {key}={changed[key]!r}, but {name} has {own[key]!r}; "
                f"leave it out"
            )
    options = {}
    if changed.get("num_classes", -1) >= 0:
        options["num_classes"] = changed["num_classes"]
    if "input_size" in changed:
        if model_info(name).kind != "image":
            raise ValueError(
                f"pretrained_cfg says input_size={changed['input_size']}, but {name} reads "
                f"{model_info(name).kind}; leave it out"
            )
        channels, *sides = changed["input_size"]
        side = sides[0] if sides[0] == sides[-1] else tuple(sides)
        options |= {"in_chans": channels, "img_size": side}
    return FactsGiven(options, changed)


def own_facts(name: str) -> dict[str, Any]:
    """What timm knows of a model at its defaults; nothing of one that reads no images."""
    from timm.models import PretrainedCfg
    from timm.models._registry import get_pretrained_cfg

    return dict(vars(get_pretrained_cfg(name) or PretrainedCfg()))


def share_facts(model: Any, name: str, facts: Mapping[str, Any]) -> None:
    """Note on a model what was given, and the name under which timm's hub finds it.

    What its builder has decided, such as the number of classes, stays as it is there.
    """
    model.follow_data(**{key: facts[key] for key in DATA if key in facts})
    decided = ("input_size", "num_classes", "state_dict")
    others = {key: value for key, value in facts.items() if key not in decided}
    model.default_cfg |= {"architecture": name, **others}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
