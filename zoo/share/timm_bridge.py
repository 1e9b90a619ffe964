"""Make every model of the zoo available to timm's `create_model` and to its scripts.

What timm passes to a builder is honoured or refused in one line: `features_only`, `pretrained_cfg`
and `pretrained_cfg_overlay`, `pretrained=True` with the weights that these say or else our own
(`pretrained`), whose tag may follow the name as in `vit_nano.digits`, and every keyword.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..image_network import ImageNetwork
from ..models import build_model, list_models, model_info, models
from .pretrained import card_of, load_pretrained
from .timm_facts import SOURCES, facts_given, own_facts, share_facts

__all__ = ["register_with_timm"]

MODULE = "archzoo_timm"

# Keywords that timm passes to every builder: where it caches what it loads, and how the model was
# made that a checkpoint comes from.
TIMM_ONLY = ("cache_dir", "pretrained_model_args", "scriptable")


def register_with_timm() -> list[str]:
    """Register every model under its own name and return the names; a second call does nothing.

    timm's scripts read the facts of an image model, such as its input size, before they build it;
    so each is built here once, on `meta`.

    Raises:
        ValueError: timm has a model of the same name.
    """
    from timm.models import generate_default_cfgs, is_model
    from timm.models import register_model as register

    module = sys.modules.setdefault(MODULE, types.ModuleType(MODULE))
    new = [name for name in list_models() if not hasattr(module, name)]
    taken = [name for name in new if is_model(name)]
    if taken:
        raise ValueError(f"timm already has models named {taken}; nothing was registered")
    facts: dict[str, Any] = {n: _facts(n) for n in new if model_info(n).kind == "image"}
    vars(module)["default_cfgs"] = generate_default_cfgs(facts)
    for name in new:
        build = _adapter(name)
        setattr(module, name, build)
        register(build)
    return list_models()


def _facts(name: str) -> dict[str, Any]:
    with torch.device("meta"):
        return {**build_model(name).default_cfg, "architecture": name}


def _adapter(name: str) -> Callable[..., Any]:
    """Wrap a builder so that it takes timm's keywords and refuses those it cannot honour."""

    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        features_only: bool = False,
        **keywords: Any,
    ) -> nn.Module:
        tag = pretrained_cfg if isinstance(pretrained_cfg, str) else None
        given = facts_given(name, None if tag else pretrained_cfg, pretrained_cfg_overlay)
        source = any(given.facts.get(key) is not None for key in SOURCES)
        ours = None if source or not (pretrained or tag) else _our_tag(name, tag)
        chosen: dict[str, Any] = {}
        if features_only:
            chosen = {key: keywords.pop(key, None) for key in ("out_indices", "feature_cls")}
            chosen |= keywords.pop("feature_cfg", {})
        known = models[name].options
        options = {key: value for key, value in given.options.items() if key in known}
        for key, value in keywords.items():
            empty = value is None or value == 0.0 or value is False
            if key not in known and (key in TIMM_ONLY or empty):
                continue
            options[key] = value
        if ours is not None and pretrained:
            model = load_pretrained(name, ours, **options)
        else:
            model = build_model(name, **options)
        share_facts(model, name, given.facts)
        if pretrained and ours is None:
            _load(model, name, given.facts, keywords.get("cache_dir"))
        return _features(model, name, chosen) if features_only else model

    build.__name__ = build.__qualname__ = name
    build.__module__ = MODULE
    build.__doc__ = models[name].summary
    return build


def _our_tag(name: str, tag: str | None) -> str:
    """Return the tag of the weights that are meant.

    Raises:
        ValueError: there are none, or none of that tag.
    """
    try:
        return card_of(name, tag or True).tag
    except ValueError as error:
        raise ValueError(
            f"{error}; or say where they are, such as "
            f"pretrained_cfg_overlay={{'file': 'weights.safetensors'}}"
        ) from error


def _load(model: Any, name: str, facts: dict[str, Any], cache_dir: Any) -> None:
    """Load weights from where the facts say, by timm's own function, which adapts head and stem.

    What they do not say of the source is as in the model at its defaults.
    """
    from timm.models import load_pretrained

    cfg = {**own_facts(name), **facts}
    cfg["label_offset"] = cfg["label_offset"] or 0
    in_chans = model.default_cfg["input_size"][0]
    classes = model.num_classes
    load_pretrained(model, cfg, num_classes=classes, in_chans=in_chans, cache_dir=cache_dir)


def _features(model: nn.Module, name: str, chosen: dict[str, Any]) -> nn.Module:
    """Wrap a model as timm's extractor of features: the stages, or the last three blocks.

    Raises:
        ValueError: a model without depths, or an extractor that rebuilds models from their parts.
    """
    from timm.models._features import FeatureGetterNet, FeatureHookNet

    if not isinstance(model, ImageNetwork):
        raise ValueError(f"{name} has no depths to take features from; use features_only=False")
    kind = chosen.pop("feature_cls") or "getter"
    if kind not in ("getter", "hook"):
        raise ValueError(
            f"feature_cls must be 'getter' or 'hook', got {kind!r}: the others rebuild a model "
            f"from its parts, and lose what a residual keeps between stages"
        )
    depths = model.feature_info
    one_size = depths[0]["reduction"] == depths[-1]["reduction"]
    taken = chosen.pop("out_indices")
    if taken is None:
        taken = min(3, len(depths)) if one_size else tuple(range(len(depths)))
    if kind == "getter":
        net = FeatureGetterNet(model, taken, **chosen)
    else:
        fmt = {"output_fmt": "NLC" if model.num_prefix_tokens else "NCHW"}
        net = FeatureHookNet(model, taken, no_rewrite=True, **fmt, **chosen)
    facts = {key: value for key, value in model.default_cfg.items() if key != "classifier"}
    net.pretrained_cfg = net.default_cfg = facts  # type: ignore[assignment]
    return net
